"""Splits a folder of classes into training, validation and test subsets on disk."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.base.errors import DatasetError, ImageError
from tasks.base.progress import Steps, finish
from tasks.base.workspace import open_table, storage_errors, write_json
from tasks.classification.data.digests import write_digests
from tasks.classification.data.partition import assign_groups
from tasks.classification.data.sources import PARTS, SourceImage, Sources, find_sources, group_names
from tasks.classification.params import Part, SplitParams
from tasks.images.files import in_threads, link_or_copy, n_cores
from tasks.images.jpeg_check import Checkers

FILE_COLUMNS = ("part", "class", "group", "name", "source", "digest")
# Leaves room for what augmentation appends; most file systems allow 255 bytes.
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What a split found and made; also written as report.json."""

    classes: list[str]
    counts: dict[Part, dict[str, int]]  # part -> class -> images
    n_images: int  # usable ones
    already_split: bool
    bad: list[BadFile]
    n_ignored: int  # files that are no images by their suffix, or lie outside the folders of the classes
    duplicates: list[list[str]]  # files of identical content; kept on one side unless the data came split
    mislabelled: list[list[str]]  # those of them that lie in more than one class
    leaks: list[list[str]]  # those of them that lie in more than one part: only when the data came split
    n_groups: int | None  # recordings; None without group_by
    split_groups: list[str]  # recordings on more than one side: only when the data came split
    n_linked: int
    n_copied: int


@dataclass(frozen=True, slots=True)
class _Placed:
    """A usable image with all that is known of it."""

    image: SourceImage
    digest: str
    group: str
    part: Part


def split_by_class(
    images: Mapping[str, Sequence[Path]], params: SplitParams, groups: Mapping[Path, str] | None = None
) -> dict[Part, list[Path]]:
    """Split every class at the same ratios, so that rare drones stay in all parts.

    Args:
        images: class name -> image paths.
        params: the ratios and the seed; the same paths give the same split, whatever their order.
        groups: path -> what must stay on one side, also across classes; without it every path stands for
            itself.

    Returns:
        part -> paths, sorted; disjoint, together every input path, every class in every part. With groups the
        number of images is as close to the ratios as whole groups allow.

    Raises:
        DatasetError: a class has fewer than three images or groups.
    """
    labels = {path: label for label, paths in images.items() for path in paths}
    members: dict[str, list[Path]] = defaultdict(list)
    for path in labels:
        members[str(path) if groups is None else groups[path]].append(path)
    counts = {name: Counter(labels[path] for path in paths) for name, paths in members.items()}
    _check_enough(images, counts)
    shares = (params.train_ratio, params.val_ratio, 1 - params.train_ratio - params.val_ratio)
    assigned = assign_groups(counts, shares, params.seed)
    parts: dict[Part, list[Path]] = {part: [] for part in PARTS}
    for name, paths in members.items():
        parts[PARTS[assigned[name]]] += paths
    for part in PARTS:
        if missing := sorted(set(images) - {labels[path] for path in parts[part]}):
            raise DatasetError(f"found no way to keep groups whole that leaves {part} an image of class {missing[0]!r}")
    return {part: sorted(paths) for part, paths in parts.items()}


def _check_enough(images: Mapping[str, Sequence[Path]], counts: Mapping[str, Counter[str]]) -> None:
    """Refuse a class that cannot be in every part."""
    n_groups = Counter(label for labels in counts.values() for label in labels)
    need = f"need at least {len(PARTS)}, one for each of {', '.join(PARTS)}"
    for label, paths in sorted(images.items()):
        if len(paths) < len(PARTS):
            raise DatasetError(f"class {label!r} has {len(paths)} usable image(s), {need}")
        if n_groups[label] < len(PARTS):
            raise DatasetError(
                f"class {label!r} has {len(paths)} images in {n_groups[label]} group(s) that must stay on "
                f"one side (a recording, files of identical content, or recordings that share such files), {need}"
            )


def split_dataset(
    source: Path | Mapping[Part, Path], target: Path, params: SplitParams, n_workers: int = 0
) -> SplitReport:
    """As `splitting`, all at once."""
    return finish(splitting(source, target, params, n_workers))


def splitting(
    source: Path | Mapping[Part, Path], target: Path, params: SplitParams, n_workers: int = 0
) -> Steps[SplitReport]:
    """Fill `target` with {train,val,test}/<class>/<name>, files.csv, digests.json, report.json; yield per file checked.

    Files are hard links to the originals where the file system allows, else copies. Files of identical
    content stay on one side. Data that is already split is taken as it is, and what leaks between its parts
    is only reported.

    Args:
        source: what `find_sources` takes; it is only read.
        target: an existing empty folder.
        n_workers: threads that decode every image to check it; 0 for one per core.

    Raises:
        DatasetError: the folder is not one of classes, a class is too small, or too many files are bad.
        ConfigError: `group_by` cannot be used.
    """
    sources = find_sources(source)
    digests, bad = yield from _check_files(sources, params, n_workers)
    usable = [image for image in sources.images if image.path in digests]
    groups = group_names(usable, params.group_by) if params.group_by else {}
    parts = _place(sources, usable, digests, groups, params)
    placed = sorted(
        (_Placed(i, digests[i.path], groups.get(i.path, ""), parts[i.path]) for i in usable),
        key=lambda p: (PARTS.index(p.part), p.image.label, p.image.relative),
    )
    with storage_errors(target):
        n_linked = _write(placed, target)
        report = _report(sources, placed, bad, n_linked)
        write_json(target / "report.json", asdict(report))
    return report


def _check_files(sources: Sources, params: SplitParams, n_workers: int) -> Steps[tuple[dict[Path, str], list[BadFile]]]:
    """Return the digest of each file that can be decoded, and the others with the reason."""

    n_workers = n_workers or n_cores()
    digests: dict[Path, str] = {}
    bad: list[BadFile] = []
    with Checkers(n_workers) as checkers:

        def check(image: SourceImage) -> str | ImageError:
            try:
                return checkers.check(image.path)
            except ImageError as exc:
                return exc

        checked = in_threads(check, sources.images, n_workers)
        for number, (image, found) in enumerate(zip(sources.images, checked, strict=True), 1):
            if isinstance(found, str):
                digests[image.path] = found
            else:
                bad.append(BadFile(image.relative, str(found)))
            yield number, len(sources.images)
    if len(bad) > params.max_bad_share * len(sources.images):
        named = "; ".join(file.reason for file in bad[:5])
        raise DatasetError(
            f"{len(bad)} of {len(sources.images)} files cannot be used, need at most "
            f"{params.max_bad_share:.3g} of them (max_bad_share): {named}{' ...' if len(bad) > 5 else ''}"
        )
    return digests, bad


def _place(
    sources: Sources,
    usable: Sequence[SourceImage],
    digests: Mapping[Path, str],
    groups: Mapping[Path, str],
    params: SplitParams,
) -> dict[Path, Part]:
    """Return the part of each image."""
    images: dict[str, list[Path]] = {label: [] for label in sources.classes}
    for image in usable:
        images[image.label].append(image.path)
    if not sources.already_split:
        together = _joined(usable, digests, groups)
        parts = split_by_class(images, params, together)
        return {path: part for part, paths in parts.items() for path in paths}
    found = {image.path: image.part for image in usable if image.part is not None}
    for part in sorted({image.part for image in sources.images if image.part is not None}):
        if missing := set(sources.classes) - {image.label for image in usable if image.part == part}:
            raise DatasetError(f"class {min(missing)!r} has 0 usable images in {part}, need at least 1")
    return found


def _joined(images: Iterable[SourceImage], digests: Mapping[Path, str], groups: Mapping[Path, str]) -> dict[Path, str]:
    """Return what must stay on one side for each path: one name for all that share a recording or a content.

    Sharing carries on: a file of one recording that is also in another ties the two together.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first: dict[str, str] = {}
    for image in sorted(images, key=lambda i: i.relative):
        path = f"path {image.relative}"
        keys = [f"digest {digests[image.path]}"]
        if image.path in groups:
            keys.append(f"group {groups[image.path]}")
        for key in keys:
            # Groups are sorted by their first path, so that their order does not depend on contents.
            a, b = sorted((root(path), root(first.setdefault(key, path))))
            parent[b] = a
    return {image.path: root(f"path {image.relative}") for image in images}


def _write(placed: Sequence[_Placed], target: Path) -> int:
    """Link or copy the files and list them, with their digests; return how many are links."""
    n_linked = 0
    taken: set[tuple[Part, str, str]] = set()
    digests: dict[str, str] = {}
    with open_table(target / "files.csv") as file:
        rows = csv.writer(file)
        rows.writerow(FILE_COLUMNS)
        for item in placed:
            image = item.image
            name = _free_name(item, taken)
            folder = target / item.part / image.label
            folder.mkdir(parents=True, exist_ok=True)
            n_linked += link_or_copy(image.path, folder / name)
            digests[f"{item.part}/{image.label}/{name}"] = item.digest
            rows.writerow((item.part, image.label, item.group, name, image.path.absolute(), item.digest))
    write_digests(target, digests)
    return n_linked


def _free_name(item: _Placed, taken: set[tuple[Part, str, str]]) -> str:
    """Return a name no other file of the folder has, also where upper and lower case are one; take it."""
    path = item.image.path
    name = "__".join(item.image.inside)
    n = 0
    while (key := (item.part, item.image.label, name.lower())) in taken or len(
        name.encode(errors="replace")
    ) > _MAX_NAME:
        n += 1
        name = f"{path.stem[:40]}~{item.digest[:8]}{f'-{n}' if n > 1 else ''}{path.suffix}"
    taken.add(key)
    return name


def _report(sources: Sources, placed: Sequence[_Placed], bad: list[BadFile], n_linked: int) -> SplitReport:
    """Return the counts and what is odd about the data."""
    same: dict[str, list[_Placed]] = defaultdict(list)
    sides: dict[str, set[Part]] = defaultdict(set)
    for item in placed:
        same[item.digest].append(item)
        sides[item.group].add(item.part)
    doubles = [items for items in same.values() if len(items) > 1]
    recordings = set(sides) - {""}
    counts: dict[Part, dict[str, int]] = {part: dict.fromkeys(sources.classes, 0) for part in PARTS}
    for item in placed:
        counts[item.part][item.image.label] += 1

    def names(chosen: Iterable[list[_Placed]]) -> list[list[str]]:
        return sorted([item.image.relative for item in items] for items in chosen)

    return SplitReport(
        classes=sources.classes,
        counts=counts,
        n_images=len(placed),
        already_split=sources.already_split,
        bad=bad,
        n_ignored=sources.n_ignored,
        duplicates=names(doubles),
        mislabelled=names(items for items in doubles if len({item.image.label for item in items}) > 1),
        leaks=names(items for items in doubles if len({item.part for item in items}) > 1),
        n_groups=len(recordings) or None,
        split_groups=sorted(name for name in recordings if len(sides[name]) > 1),
        n_linked=n_linked,
        n_copied=len(placed) - n_linked,
    )
