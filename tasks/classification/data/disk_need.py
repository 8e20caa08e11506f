"""Estimates from its files how much room the preparation of a data set takes on the disk."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from gpu_pools.placement.disk import Need, nearest
from tasks.base.errors import ImageError
from tasks.base.outside import open_file
from tasks.classification.data.sources import Sources, find_sources
from tasks.classification.params import AugmentParams, Part, SplitParams

_SAMPLE = 32  # images whose size in pixels is looked at; those of a data set are alike
_BYTES_PER_PIXEL = 0.6
"""Of an altered copy as JPEG of quality 95, mean over the six methods; noise takes more, blur less."""


def preparation_need(
    source: Path | Mapping[Part, Path], split: SplitParams, augment: AugmentParams, target: Path
) -> Need:
    """Return the bytes that split and augmentation will take.

    The images of a split are hard links, which take nothing, unless they lie on another disk: then they are copies.

    Args:
        source: a folder of classes, or of parts; or the folder of each part.
        split: how the parts are cut.
        augment: which altered copies are made.
        target: a folder of the run, which may not be there yet.

    Raises:
        DatasetError: there are no such folders.
    """
    sources = find_sources(source)
    paths = [image.path for image in sources.images]
    n_copies = _n_altered(sources, split, augment) if augment.enabled else 0
    if not paths:
        return Need(0, "")
    altered = int(n_copies * _BYTES_PER_PIXEL * _mean_pixels(paths)) if n_copies else 0
    moved = 0
    if paths[0].stat().st_dev != nearest(target).stat().st_dev:
        moved = sum(path.stat().st_size for path in paths)
    what = [f"{n_copies:,} altered copies"] * bool(altered) + ["copies from another disk"] * bool(moved)
    return Need(altered + moved, " and ".join(what))


def _n_altered(sources: Sources, split: SplitParams, augment: AugmentParams) -> int:
    """Return how many altered copies there will be: one by each method, of each image of the chosen parts."""
    shares: Mapping[Part, float] = {
        "train": split.train_ratio,
        "val": split.val_ratio,
        "test": 1 - split.train_ratio - split.val_ratio,
    }
    if sources.already_split:
        n_images: float = sum(image.part in augment.parts for image in sources.images)
    else:
        n_images = sum(shares[part] for part in augment.parts) * len(sources.images)
    return round(n_images) * len(set(augment.methods))


def _mean_pixels(paths: Sequence[Path]) -> float:
    """Return the mean number of pixels of some of the images, by their headers; damaged ones are left out."""
    found = []
    for path in paths[:: max(1, len(paths) // _SAMPLE)]:
        try:
            with open_file(path, ImageError) as file, Image.open(file) as image:
                found.append(image.width * image.height)
        except (
            ImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ):  # the preparation itself names them
            continue
    if not found:
        raise ImageError(f"found no image that can be opened among {len(paths)}: {paths[0].parent}")
    return statistics.fmean(found)
