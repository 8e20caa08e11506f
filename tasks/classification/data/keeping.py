"""Decides by a measurement whether shrunk images are kept in memory, on disk, or not at all."""

import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.base.memory import free_memory
from tasks.base.workspace import storage_errors
from tasks.classification.data.cache import ResizeCache
from tasks.images.images import read_bytes, shrunk

Keep = Literal["memory", "disk", "nowhere"]

_SAMPLE = 64  # files
_BUDGET_S = 0.25  # seconds; the first batch waits for the measurement
# Decoding that takes so many times a write and a read is kept on disk. At 224 px a JPEG of 25 kB takes 2, one of
# 1800x1200 14.
_DEAR = 8
_SHARE = 0.25  # share of what is free: other runs that start now see the same free memory


@dataclass(slots=True)
class Costs:
    """Seconds that each image of a sample took.

    What counts must not depend on who else uses the machine: of decoding the processor's time, of writes and reads,
    which may wait for a disk, the quickest.
    """

    decode: list[float] = field(default_factory=list)  # of the processor
    write: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    n_found: int = 0  # images whose entry an earlier run left; they are only read


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """Bytes: what the images take, and what is free."""

    needed: int
    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Where images are kept, and the sentence that says why."""

    keep: Keep
    why: str


def choose(
    paths: Sequence[Path],
    digests: Sequence[str | None],
    cache: ResizeCache,
    *,
    n_images: int,
    n_epochs: int,
    n_processes: int = 1,
) -> Choice:
    """Return where the images are kept, after trying some of them.

    Args:
        paths: of files, at least one, to take the sample from.
        digests: of their content; where it is not known, entries of earlier runs are not looked for.
        cache: where entries would lie.
        n_images: in all parts together.
        n_epochs: how often each is asked for.
        n_processes: each of which would keep its own in memory.

    Raises:
        ImageError: one of the sample cannot be used.
        StorageError: the cache cannot be written.
    """
    step = max(1, len(paths) // _SAMPLE)
    costs = measure(paths[::step][:_SAMPLE], digests[::step][:_SAMPLE], cache)
    needed = n_images * cache.size * cache.size * 3
    room = CacheSpace(needed, free_memory() // n_processes, shutil.disk_usage(cache.folder).free)
    keep = decide(costs, room, n_epochs)
    return Choice(keep, _sentence(keep, costs, room, n_images))


def measure(paths: Sequence[Path], digests: Sequence[str | None], cache: ResizeCache) -> Costs:
    """Return what images cost, one after the other, until all are tried or a quarter of a second is over."""
    costs = Costs()
    with storage_errors(cache.folder):
        cache.folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    for path, digest in zip(paths, digests, strict=True):
        _try(path, digest, cache, costs)
        if time.perf_counter() - begun > _BUDGET_S:
            break
    return costs


def _try(path: Path, digest: str | None, cache: ResizeCache, costs: Costs) -> None:
    if digest is not None and cache.load(digest) is not None:
        costs.n_found += 1
        costs.read.append(_seconds(lambda: cache.load(digest)))  # known to be sound by now
        return
    started = time.thread_time()
    pixels = shrunk(read_bytes(path), path, cache.size)
    costs.decode.append(time.thread_time() - started)
    trial = f"trial-{secrets.token_hex(8)}"
    costs.write.append(_seconds(lambda: cache.store(trial, pixels)))
    costs.read.append(_seconds(lambda: cache.load(trial)))
    cache.remove(trial)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def decide(costs: Costs, room: CacheSpace, n_epochs: int) -> Keep:
    """Return where images of these costs are kept when each is asked for `n_epochs` times."""
    if costs.n_found > len(costs.decode):
        return "disk"
    decode, write, read = statistics.median(costs.decode), min(costs.write), min(costs.read)
    fits_disk, fits_memory = room.needed <= _SHARE * room.disk, room.needed <= _SHARE * room.memory
    if fits_disk and decode > _DEAR * (write + read):
        return "disk"
    if n_epochs > 1 and fits_memory:
        return "memory"
    return "disk" if fits_disk and (n_epochs - 1) * (decode - read) > write else "nowhere"


def _sentence(keep: Keep, costs: Costs, room: CacheSpace, n_images: int) -> str:
    found = "most of the entries are there, one is"
    if costs.n_found <= len(costs.decode):
        decode, write = statistics.median(costs.decode), min(costs.write)
        found = f"decoding takes {_ms(decode)} an image, an entry is written in {_ms(write)} and"
    free = {
        "memory": f"of {_gb(room.memory)} free",
        "disk": f"of {_gb(room.disk)} free on the disk",
        "nowhere": f"with {_gb(room.memory)} of memory and {_gb(room.disk)} of the disk free",
    }
    needed = f"{n_images:,} images, {_gb(room.needed)} {free[keep]}"
    return f"cache: {keep}: {found} read in {_ms(min(costs.read))}; {needed}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms"


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
