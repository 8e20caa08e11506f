"""Removes the folders of sweeps that ended long ago; their results stay in MLflow."""

from collections.abc import Iterator
from pathlib import Path

from gpu_pools.placement.queues import parse_duration
from tasks.base.file_locks import is_held
from tasks.base.workspace import home
from tasks.housekeeping.house import House
from tasks.housekeeping.receipt import Entry, Receipt, age_text
from tasks.housekeeping.workspaces import remove_folder, unsent

SWEEPS = "sweeps"
"""The folder of the home in which each sweep has one of its name."""

LOCK, ENDED, CANCELLED = "lock", "ended", "cancelled"
"""In the folder of a sweep: held by the process that conducts it; made when it came to its end, or was cancelled."""


def remove_sweeps(house: House, receipt: Receipt) -> None:
    """Remove the folders of sweeps that came to their end, or were cancelled, long ago.

    One that was cut off is not at its end: who goes on with it needs all of the folder.
    """
    if house.keep.sweeps is None:
        return
    limit_s = parse_duration(house.keep.sweeps)
    for folder in _sweeps():
        ago = house.now - _touched(folder)
        if ago <= limit_s:
            continue
        if why := _needed(folder):
            receipt.kept.append(Entry("sweeps", folder.name, why))
        else:
            why = f"ended {age_text(ago)} ago; its runs and files are in MLflow"
            receipt.entries.append(Entry("sweeps", folder.name, why, remove_folder(house, folder)))


def _sweeps() -> Iterator[Path]:
    root = home() / SWEEPS
    yield from sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ()


def _touched(folder: Path) -> float:
    """Return when a sweep came to its end, Unix seconds; of one that has not, when something in it was last made."""
    ends = [path for name in (ENDED, CANCELLED) if (path := folder / name).exists()]
    return max(path.stat().st_mtime for path in ends or [folder, *folder.iterdir()])


def _needed(folder: Path) -> str:
    """Return why a sweep stays; empty: nobody needs it."""
    if is_held(folder / LOCK):
        return "a process conducts it"
    if not any((folder / name).exists() for name in (ENDED, CANCELLED)):
        name = folder.name
        return f"was cut off: `yard sweep --resume {name}` goes on, `yard sweep --cancel {name}` ends it"
    return "MLflow does not have all of it yet" if unsent(folder) else ""
