"""Estimates how much room the images of a scene take on the disk."""

import statistics
from pathlib import Path

from gpu_pools.placement.disk import Need
from tasks.images.video import probe
from tasks.splatting.capture.frames import n_windows
from tasks.splatting.capture.inputs import recognise
from tasks.splatting.capture.photos import photographs_given
from tasks.splatting.capture.pixels import bounded, stored_size
from tasks.splatting.params import FramesParams

_BYTES_PER_PIXEL = 0.7
"""Of JPEG of quality 95 with colours at full size, of photographs with much texture; smooth ones take half."""
_SETS = 2  # the images, and their undistorted copies, which the fit reads
_SAMPLE = 16  # photographs whose size is looked at; those of a scene are alike


def frames_need(source: Path, params: FramesParams) -> Need:
    """Return the bytes that the images of a scene will take; of cameras that are known nothing is said.

    Args:
        source: as `recognise` takes it.
        params: how many images, and how large.

    Raises:
        DatasetError: there is nothing to make a scene of.
    """
    kind = recognise(source)
    if kind == "video":
        info = probe(source)
        n_images, sides = n_windows(info, params)[0], [(info.width, info.height)]
    elif kind == "photos":
        found = photographs_given(source)
        n_images, sides = min(len(found), params.n_frames), [stored_size(path) for path in found[:_SAMPLE]]
    else:
        return Need(0, "")
    shrunk = [bounded(*size, params.max_side) for size in sides]
    pixels = statistics.fmean(width * height for width, height in shrunk)
    width, height = shrunk[0]
    n_bytes = int(_SETS * n_images * pixels * _BYTES_PER_PIXEL)
    return Need(n_bytes, f"{n_images:,} images of {width} x {height} pixels and their undistorted copies")
