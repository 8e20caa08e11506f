"""Removes temporary files that nobody writes any more, and what the cache holds beyond its size."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from gpu_pools.placement.disk import parse_size, size_text
from gpu_pools.placement.queues import parse_duration
from gpu_pools.process import run_setup
from tasks.base.workspace import home
from tasks.housekeeping.house import House
from tasks.housekeeping.receipt import Entry, Receipt, age_text
from tasks.store.datasets import kept_data_sets, retire
from tasks.store.places import DATA_FOLDER
from tasks.tracking.dead_run_cleanup import partial_files

_IN_USE_S = 3600.0
"""What was written or read in the last hour is not taken out of the cache: a run may be about to read it again."""

_TEMPORARY = re.compile(r"\..+\.[A-Za-z0-9_]{8,16}|.+\.tmp(-wal|-shm|-journal)?")
"""As `tasks.base.workspace` and the cache name what they have not finished."""


def remove_temporary(house: House, receipt: Receipt) -> None:
    """Remove temporary files that were not written for a while, in the cache and in the folders of dead runs."""
    limit_s = parse_duration(house.keep.temporary)
    why = f"not written for more than {age_text(limit_s)}"
    for path in [*_of_cache(), *_of_runs(house)]:
        if house.now - _written(path) > limit_s:
            name = str(path.relative_to(home()))
            receipt.entries.append(Entry("temporary", name, why, house.remover.remove(path)))


def shrink_cache(house: House, receipt: Receipt) -> None:
    """Remove what was not used for longest, until the cache has its size; a line for each of its folders."""
    limit, found = parse_size(house.keep.cache), sorted(_cached(house))
    too_much = sum(n_bytes for _, n_bytes, _ in found) - limit
    freed: dict[Path, tuple[int, int, float]] = {}
    for used, taken, path in found:
        if too_much <= 0 or house.now - used < _IN_USE_S:
            break
        n_files, n_bytes, _ = freed.get(top := _folder_of(path), (0, 0, 0.0))
        if (gone := _retired(house, path)) is None:
            continue
        freed[top] = (n_files + 1, n_bytes + house.remover.remove(gone), used)
        too_much -= taken
    for folder, (n_files, n_bytes, used) in freed.items():
        why = f"more than {size_text(limit)}; not used for {age_text(house.now - used)} or longer"
        what = f"{folder.relative_to(home())}: {n_files} file{'s' * (n_files > 1)}"
        receipt.entries.append(Entry("cache", what, why, n_bytes))


def _of_cache() -> Iterator[Path]:
    for folder, _, names in os.walk(home() / "cache"):
        yield from (Path(folder, name) for name in names if _TEMPORARY.fullmatch(name))


def _of_runs(house: House) -> Iterator[Path]:
    """Yield what the processes of runs were writing when they died; a run that lives, or waits, is not looked into."""
    protected = house.protected()
    for run_id, folder in sorted(house.folders.items()):
        if run_id in protected or run_id not in house.known or not folder.is_dir():
            continue
        left = partial_files(folder)
        if left and run_setup.run_is_dead(run_id):
            yield from left


def _cached(house: House) -> Iterator[tuple[float, int, Path]]:
    """Yield of files of the cache, and of data sets, when each was used last, Unix seconds, its bytes, and its path."""
    for folder, _, names in os.walk(home() / "cache"):
        for path in (Path(folder, name) for name in names):
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue
            if path not in house.remover.gone:  # of a dry run
                yield (max(found.st_atime, found.st_mtime), found.st_blocks * 512, path)
    for path in kept_data_sets():  # whole, or not at all: a run reads all of it
        if path not in house.remover.gone:
            blocks = sum(Path(folder, name).lstat().st_blocks for folder, _, names in os.walk(path) for name in names)
            yield path.stat().st_mtime, blocks * 512, path


def _retired(house: House, path: Path) -> Path | None:
    """Return what is to be removed of something in the cache; None: a run works with it."""
    if path.parent.name != DATA_FOLDER or house.remover.dry_run:
        return path
    house.remover.gone.add(path)
    return retire(path)


def _folder_of(path: Path) -> Path:
    """Return the folder of the cache that a file lies in, cache/resize-v1-224, or that of the data sets."""
    if path.parent == home() / DATA_FOLDER:
        return path.parent
    return home() / "cache" / path.relative_to(home() / "cache").parts[0]


def _written(path: Path) -> float:
    """Return when the newest of a file, or of all below a folder, was written, Unix seconds."""
    times = [path.lstat().st_mtime]
    if path.is_dir() and not path.is_symlink():
        times += [Path(folder, name).lstat().st_mtime for folder, _, names in os.walk(path) for name in names]
    return max(times)
