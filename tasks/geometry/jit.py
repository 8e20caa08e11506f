"""Compiles numba kernels, caches them on disk, and runs them on threads."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
"""What kernels take."""

F = np.float32
U = np.uint64
"""Numbers in kernels; of indices of all other kinds numba asks whether they are negative."""

P = ParamSpec("P")
R = TypeVar("R")

_config: Any = numba.config  # numba adds its attributes when it is imported


@cache
def _cache_folder() -> str:
    """Return the folder for machine code, whose name changes with any file that has kernels.

    numba looks at the age of a function's own file only; constants and functions from another would stay as they were.
    """
    here = Path(__file__)
    digest = hashlib.sha256()
    for path in sorted(here.parents[1].rglob("*.py")):
        text = path.read_bytes()
        if path.parent == here.parent or b"tasks.geometry.jit" in text:  # formulas that kernels are made of, or kernels
            digest.update(text)
    base = _config.CACHE_DIR or here.parent / "__pycache__"
    return str(Path(base) / f"kernels-{digest.hexdigest()[:12]}")


def _compiled(function: Callable[P, R], **settings: Any) -> Callable[P, R]:
    settings |= {"nogil": True, "error_model": "numpy"}
    before = _config.CACHE_DIR
    _config.CACHE_DIR = _cache_folder()
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # numba found no folder that can be written, the user's own included
        return numba.njit(**settings)(function)
    finally:
        _config.CACHE_DIR = before


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, without the GIL and with C's division.

    The machine code is kept beside the file, or in the user's cache folder where that cannot be written. Where neither
    can, every process compiles anew.
    """
    return _compiled(function)


def summing(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `kernel`, but sums may be taken in another order: the same one in every run on one kind of CPU."""
    return _compiled(function, fastmath={"reassoc"})


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `kernel`, but a product and a sum after it are rounded once, where the CPU can: the faster way.

    The same bits in every run on CPUs that can, which are all x86-64 since 2013 and all ARM64.
    """
    return _compiled(function, fastmath={"contract"})


def instruction(function: Callable[..., Any]) -> Any:
    """Make a function that returns a signature and what builds its machine code callable from kernels."""
    return intrinsic(function)


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="splatting")


# Threads do not survive a fork; a child that waited for its parent's would wait for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def run(function: Callable[..., None], n_threads: int, arguments: Sequence[object]) -> None:
    """Call function(first, step, *arguments) on each thread and wait; item i belongs to the thread i % step.

    numba's own parallel loops are not used: they compile several times longer, must not be started by two Python
    threads at once, and cannot be forked after.
    """
    if n_threads == 1:
        function(0, 1, *arguments)
        return
    others = [_pool(n_threads - 1).submit(function, first, n_threads, *arguments) for first in range(1, n_threads)]
    function(0, n_threads, *arguments)
    for other in others:
        other.result()
