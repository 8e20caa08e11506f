"""Writes splats as SPZ, Niantic's compressed format, at a tenth of the PLY's size.

Source: github.com/nianticlabs/spz, README.md (sections Coordinate System and File Format) and src/cc/load-spz.cc at
21715c3. Version 3 is written: the last one in a gzip container, which the reference library reads in all its
releases since 2025, as do Spark and spz-js; version 2 is read even more widely, but its rotations are off by 1 degree
on average, up to 12 (their pull request 41), and version 4 needs Zstandard.
"""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.workspace import write_atomic
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.results.ply import finite, unit_quaternions
from tasks.splatting.results.rotate_splat import RIGHT_UP_BACK, turned

MAGIC = 0x5053474E
VERSION = 3
ANTIALIASED = 1
COLOR_SCALE = 0.15
"""A byte of colour is 255 (0.15 f_dc + 0.5): room for colours beyond 0 and 1."""

LEVEL = 6  # 9 takes three times as long for 2 % less
MAX_FRACTIONAL_BITS = 16
SH_BITS = (5, 4, 4)
"""Bits kept of each coefficient by degree, as upstream: the zeros below compress well."""


def write_spz(gaussians: Gaussians, path: Path, *, antialiased: bool = False) -> int:
    """Write the splat as SPZ; return how many Gaussians were left out because they are not finite.

    Args:
        gaussians: in a right-down-forward world; the file holds them right-up-back, as the format asks.
        path: of the file.
        antialiased: they were fitted so (Mip-Splatting, arXiv:2311.16493).

    Raises:
        DatasetError: a Gaussian lies too far out for the format's 24 bits.
        StorageError: the file cannot be written.
    """
    kept, n_left_out = finite(gaussians)
    kept = turned(kept, RIGHT_UP_BACK)
    means = kept.means.double().numpy()
    bits = _fractional_bits(float(np.abs(means).max(initial=0.0)), path)
    flags = ANTIALIASED if antialiased else 0
    opacity = 1 / (1 + np.exp(-kept.opacities.double().numpy()))
    parts = [
        struct.pack("<IIIBBBB", MAGIC, VERSION, len(kept), kept.sh_degree, bits, flags, 0),
        _fixed_point(means * 2**bits),
        _byte(opacity * 255).tobytes(),
        _byte((kept.sh0[:, 0].double().numpy() * COLOR_SCALE + 0.5) * 255).tobytes(),
        _byte((kept.scales.double().numpy() + 10) * 16).tobytes(),
        _smallest_three(unit_quaternions(kept).astype(np.float64)).astype("<u4").tobytes(),
        _harmonics(kept.shN.double().numpy()).tobytes(),
    ]
    write_atomic(path, gzip.compress(b"".join(parts), LEVEL, mtime=0))
    return n_left_out


def _fractional_bits(farthest: float, path: Path) -> int:
    """Return how many of a coordinate's 24 bits may stand behind the point, for one this far from zero."""
    largest = 2**23 - 1
    if farthest > largest:
        raise DatasetError(f"{path}: a Gaussian is {farthest:g} from the origin, SPZ holds at most {largest}")
    return int(min(MAX_FRACTIONAL_BITS, np.floor(np.log2(largest / max(farthest, 1.0)))))


def _byte(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Round to what a byte can hold."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _fixed_point(values: NDArray[np.float64]) -> bytes:
    """Return each value as three bytes, lowest first, two's complement."""
    whole = np.round(values).astype("<i4")
    return np.ascontiguousarray(whole).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def _smallest_three(quats: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return unit quaternions (N, 4) w x y z in 32 bits each: which is largest (2), the others by sign and 9 bits."""
    xyzw = quats[:, [1, 2, 3, 0]]
    rows = np.arange(len(xyzw))
    largest = np.argmax(np.abs(xyzw), axis=1)
    xyzw = xyzw * np.where(xyzw[rows, largest] < 0, -1.0, 1.0)[:, None]  # -q is the same rotation
    packed = largest.astype(np.uint32)
    for i in range(4):
        size = np.minimum(np.floor(511 * np.abs(xyzw[:, i]) * np.sqrt(2) + 0.5), 511).astype(np.uint32)
        field = (xyzw[:, i] < 0).astype(np.uint32) << np.uint32(9) | size
        packed = np.where(largest == i, packed, packed << np.uint32(10) | field)
    return packed


def _harmonics(higher: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return coefficients (N, K - 1, 3) as bytes, 128 for zero and 128 to one, at the centres of their buckets."""
    steps = np.round(higher * 128) + 128
    for band, bits in enumerate(SH_BITS, start=1):
        part = slice(band**2 - 1, (band + 1) ** 2 - 1)
        bucket = 2 ** (8 - bits)
        steps[:, part] = np.floor((steps[:, part] + bucket // 2) / bucket) * bucket
    return np.clip(steps, 0, 255).astype(np.uint8)
