"""Reads I/Q recordings that were saved by numpy.save."""

import os
import tokenize
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from tasks.base.errors import DatasetError
from tasks.base.outside import open_file
from tasks.signals.iq_layout import Layout, Stored

# What numpy raises, and Python's own reader of literals, on headers that are none.
_BAD_HEADER = (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_FULL: Mapping[str, tuple[float, float]] = {
    **{f"f{n}": (0, 1) for n in (2, 4, 8)},
    **{f"i{n}": (0, 2 ** (8 * n - 1)) for n in (1, 2, 4)},
    **{f"u{n}": ((2 ** (8 * n) - 1) / 2, (2 ** (8 * n) - 1) / 2) for n in (1, 2)},
}
"""Kind and bytes of a number -> what stands for zero, and how far from it full scale is."""


def is_npy(head: bytes) -> bool:
    """Return whether a file that begins so is an array of numpy's."""
    return head.startswith(npy.MAGIC_PREFIX)


def read_npy(path: Path) -> Layout:
    """Return where and how the samples of an array are stored; nothing in it says their rate.

    Complex (N,), or I and Q as real numbers, (N, 2) or (2, N), in either order of memory.

    Raises:
        DatasetError: it is no array, is cut off, or has another shape or type.
    """
    with open_file(path, DatasetError) as file:
        try:
            version = npy.read_magic(file)
            shape, by_columns, dtype = _READERS[version](file)
        except _BAD_HEADER as exc:
            raise DatasetError(f"found no array of numpy's ({' '.join(str(exc).split())[:200]}): {path}") from exc
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject:
        raise DatasetError(f"found an array of Python objects, need numbers: {path}")
    if size - offset < prod(shape) * dtype.itemsize:
        needed = prod(shape) * dtype.itemsize
        raise DatasetError(f"cut off: found {size - offset} bytes of an array that has {needed}: {path}")
    number = f"f{dtype.itemsize // 2}" if dtype.kind == "c" else f"{dtype.kind}{dtype.itemsize}"
    long = [n for n in shape if n != 1]
    if number not in _FULL or not (len(long) <= 1 if dtype.kind == "c" else len(shape) == 2 and 2 in shape):
        raise DatasetError(
            f"found an array {shape} of {dtype}, need complex numbers (N,), or I and Q as real ones (N, 2): {path}"
        )
    planar = dtype.kind != "c" and (shape[1] == 2) == by_columns
    stored = Stored(f"{_order(dtype)}{number}", *_FULL[number])
    return Layout(f"npy_{dtype.name}", stored, None, offset, prod(shape) // (1 if dtype.kind == "c" else 2), planar)


def _order(dtype: np.dtype[np.generic]) -> str:
    return ">" if dtype.str[0] == ">" else "<"
