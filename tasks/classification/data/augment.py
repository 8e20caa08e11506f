"""Adds altered copies of images to a data set; the copies do not depend on the number of threads."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from queue import SimpleQueue

# Importing albumentations asks PyPI for its newest version, which waits for seconds where there is no
# network.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.progress import Steps, finish
from tasks.base.workspace import storage_errors, write_json
from tasks.classification.data.digests import known_digests, write_digests
from tasks.classification.data.sources import PARTS
from tasks.classification.params import AugmentParams, Method, Part
from tasks.images.files import find_images, in_threads, link_or_copy, n_cores, subfolders
from tasks.images.images import content_digest, encode_jpeg, read_rgb

_MAX_NAME = 255  # bytes, of most file systems

Transforms = dict[Method, A.BasicTransform]


@dataclass(frozen=True, slots=True)
class AugmentReport:
    """What augmentation made; also written as report.json."""

    original_images: int
    augmented_images: int
    methods_used: list[Method]
    classes: list[str]
    counts: dict[Part, dict[str, int]]  # part -> class -> images, copies included


@dataclass(frozen=True, slots=True)
class _Image:
    """One original, and the names of its copies beside it."""

    key: str  # part/class/name below source and target; also seeds the copies
    copies: dict[Method, str]


def build_transforms(params: AugmentParams) -> Transforms:
    """Return the chosen methods, each applied always.

    Raises:
        ConfigError: albumentations refuses a value, or would only warn and take its own default instead.
    """
    blur, clahe, jitter = params.AdvancedBlur, params.CLAHE, params.ColorJitter
    low, high = params.GaussNoise.variance
    arguments: dict[Method, dict[str, object]] = {
        "AdvancedBlur": {
            "blur_limit": blur.blur_limit,
            "sigma_x_limit": blur.sigma_limit,
            "sigma_y_limit": blur.sigma_limit,
            "rotate_limit": blur.rotate_limit,
            "beta_limit": blur.beta_limit,
            "noise_limit": blur.noise_limit,
        },
        # A single number would mean a range that starts at 1.
        "CLAHE": {"clip_limit": (clahe.clip_limit, clahe.clip_limit), "tile_grid_size": clahe.tile_grid_size},
        "ColorJitter": jitter.model_dump(),
        # albumentations 2 takes the standard deviation as a share of the full scale.
        "GaussNoise": {"std_range": (max(low, 0) ** 0.5 / 255, max(high, 0) ** 0.5 / 255)},
        "ISONoise": params.ISONoise.model_dump(),
        "Sharpen": params.Sharpen.model_dump(),
    }
    transforms: Transforms = {}
    for method in dict.fromkeys(params.methods):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                transforms[method] = getattr(A, method)(**arguments[method], p=1.0)
        except (ValueError, TypeError, UserWarning) as exc:
            raise ConfigError(f"albumentations refuses {arguments[method]} for {method}: {exc}") from exc
    return transforms


def apply_seeded(transform: A.BasicTransform, image: NDArray[np.uint8], seed: int, key: str) -> NDArray[np.uint8]:
    """Return `image` (H, W, 3) altered; the same seed and key give the same result."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode(errors="surrogateescape"), digest_size=4).digest()
    transform.set_random_seed(int.from_bytes(digest, "big"))
    altered: NDArray[np.uint8] = transform(image=image)["image"]
    return altered


def augment_dataset(source: Path, target: Path, params: AugmentParams) -> AugmentReport:
    """As `augmenting`, all at once."""
    return finish(augmenting(source, target, params))


def augmenting(source: Path, target: Path, params: AugmentParams, *, whole: bool = False) -> Steps[AugmentReport]:
    """Fill `target` with every image of `source`, and a copy by each method in the chosen parts; yield per image.

    Originals are hard links where possible. A copy is named <stem>__<Method>.jpg and made from 8-bit RGB,
    whatever the original was; each image is decoded once. files.csv is carried over as it is: it lists the
    originals.

    Args:
        source: {train,val,test}/<class>/<name>, as `split_dataset` writes it; test may be missing.
        target: an existing empty folder.
        whole: `source` has the classes directly; all of it gets copies, as the training part does.

    Raises:
        ConfigError: a value albumentations does not take.
        DatasetError: no such folders, or (ImageError) an image cannot be used.
    """
    # One set per thread: a transform holds its random state. Made first: a value it refuses is told at once.
    transforms = [build_transforms(params) for _ in range(params.n_workers or n_cores())]
    images, counts = _plan(source, params, whole)
    to_alter = [image for image in images if image.copies]
    with storage_errors(target):
        digests = _carry_over(source, target, images)
        n_listed = len(digests)
        for number, copies in enumerate(_altering(source, target, to_alter, params, transforms), 1):
            digests |= copies
            yield number, len(to_alter)
        n_augmented = len(digests) - n_listed
        write_digests(target, digests)
        report = AugmentReport(
            original_images=len(images),
            augmented_images=n_augmented,
            methods_used=list(dict.fromkeys(params.methods)) if to_alter else [],
            classes=sorted(set().union(*counts.values())),
            counts=counts,
        )
        write_json(target / "report.json", asdict(report))
    return report


def _altering(
    source: Path, target: Path, images: Sequence[_Image], params: AugmentParams, sets: Sequence[Transforms]
) -> Iterator[dict[str, str]]:
    """Write the copies of each image, a thread for each set of transforms; yield their keys and digests, in order."""
    free: SimpleQueue[Transforms] = SimpleQueue()
    for transforms in sets:
        free.put(transforms)

    def work(image: _Image) -> dict[str, str]:
        transforms = free.get()
        try:
            return _write_copies(source / image.key, target, image, transforms, params)
        finally:
            free.put(transforms)

    yield from in_threads(work, images, len(sets))


def _plan(source: Path, params: AugmentParams, whole: bool) -> tuple[list[_Image], dict[Part, dict[str, int]]]:
    """Return the originals with the names of their copies, and the number of images per part and class."""
    folders = {"train": source} if whole else {path.name: path for path in subfolders(source)}
    if "valid" in folders:  # as RFUAV calls it; a copy keeps the name of its folder
        if "val" in folders:
            raise DatasetError(f"found both val and valid, need one of them: {source}")
        folders["val"] = folders.pop("valid")
    if "train" not in folders:
        raise DatasetError(f"found the folders {sorted(folders)}, need train, val and test: {source}")
    images: list[_Image] = []
    counts: dict[Part, dict[str, int]] = {}
    for part in PARTS:
        chosen = params.enabled and (whole or part in params.parts)
        methods = tuple(dict.fromkeys(params.methods)) if chosen else ()
        for folder in subfolders(folders[part]) if part in folders else ():
            paths, _ = find_images(folder)
            taken = {path.relative_to(folder).as_posix().lower() for path in paths}
            for path in paths:
                copies = {method: _free_name(path, method, folder, taken) for method in methods}
                images.append(_Image(path.relative_to(source).as_posix(), copies))
            counts.setdefault(part, {})[folder.name] = len(paths) * (1 + len(methods))
    if not images:
        raise DatasetError(f"found no image in a folder of its class, need at least 1: {source}")
    return images, counts


def _free_name(path: Path, method: Method, folder: Path, taken: set[str]) -> str:
    """Return <stem>__<Method>.jpg, or another name where a.jpg and a.png would both want it; take it."""
    inside = path.relative_to(folder).parent.as_posix().lower()
    name = f"{path.stem}__{method}.jpg"
    n = 0
    while (key := f"{inside}/{name.lower()}".removeprefix("./")) in taken or len(os.fsencode(name)) > _MAX_NAME:
        n += 1
        mark = hashlib.blake2b(os.fsencode(f"{path.name}/{n}"), digest_size=4).hexdigest()
        name = f"{path.stem[:40]}~{mark}__{method}.jpg"
    taken.add(key)
    return name


def _carry_over(source: Path, target: Path, images: Sequence[_Image]) -> dict[str, str]:
    """Link the originals and copy the list of files; return the digests that are known, by key."""
    for folder in {(target / image.key).parent for image in images}:
        folder.mkdir(parents=True, exist_ok=True)
    known = known_digests(source, [source / image.key for image in images])
    for image in images:
        link_or_copy(source / image.key, target / image.key)
    if (source / "files.csv").exists():
        shutil.copyfile(source / "files.csv", target / "files.csv")
    return {image.key: digest for image, digest in zip(images, known, strict=True) if digest is not None}


def _write_copies(
    source: Path, target: Path, image: _Image, transforms: Transforms, params: AugmentParams
) -> dict[str, str]:
    """Decode one original and write all of its copies below `target`; return the digest of each, by its key."""
    rgb = read_rgb(source)
    digests = {}
    for method, name in image.copies.items():
        altered = apply_seeded(transforms[method], rgb, params.seed, f"{image.key}/{method}")
        data = encode_jpeg(altered, params.quality)
        key = (PurePosixPath(image.key).parent / name).as_posix()
        (target / key).write_bytes(data)  # not atomically: the folder is a staged one
        digests[key] = content_digest(data)
    return digests
