"""Removes data that came through the inbox: those of runs past their time, and what was rejected long ago."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_pools.placement.queues import parse_duration
from gpu_pools.process import run_setup
from tasks.base.errors import ConfigError, StorageError
from tasks.base.outside import read_json
from tasks.base.workspace import home
from tasks.housekeeping.house import House
from tasks.housekeeping.receipt import Entry, Receipt, age_text
from tasks.housekeeping.workspaces import remove_folder


def remove_uploads(house: House, receipt: Receipt) -> None:
    """Remove what was dropped or sent and has become a run, as long after its end as the run's files are kept."""
    items = dict(_items())
    known, protected, living = house.records.by_id([*items]), house.protected(), house.records.living()
    for run_id, folder in items.items():
        record = known.get(run_id)
        asked = (record.keep_files or house.keep.uploads) if record is not None else None
        if record is None or not record.over or record.ended is None or not asked:
            continue
        try:
            kept_s, ago = parse_duration(asked), house.now - record.ended
        except ConfigError as exc:
            receipt.notes.append(f"the upload of run {run_id} stays: keep_files: {exc}")
            continue
        if ago <= kept_s:
            continue
        reader = next((run.name for run in living if folder.name in run.parameters), "")
        why = protected.get(run_id) or (f"{reader} reads it" if reader else "")
        with _held(house, run_id) as free:
            if why or not free:
                receipt.kept.append(Entry("uploads", folder.name, why or "a process holds its run"))
            else:
                why = f"its run ended {age_text(ago)} ago, kept {age_text(kept_s)}"
                receipt.entries.append(Entry("uploads", folder.name, why, remove_folder(house, folder)))


def remove_rejected(house: House, receipt: Receipt) -> None:
    """Remove what could not become a run, long after it was put aside."""
    limit_s = parse_duration(house.keep.rejected)
    root = home() / "inbox" / "rejected"
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        ago = house.now - folder.stat().st_mtime
        if ago > limit_s:
            why = f"rejected {age_text(ago)} ago"
            receipt.entries.append(Entry("rejected", folder.name, why, remove_folder(house, folder)))


def _items() -> Iterator[tuple[str, Path]]:
    """Yield (run, folder) of what came through the inbox; the inbox itself writes the records."""
    root = home() / "inbox" / "done"
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            run = read_json(folder / "item.json", StorageError).get("run")
        except (StorageError, FileNotFoundError, AttributeError):
            continue  # being taken, or not ours
        if run:
            yield str(run), folder


@contextmanager
def _held(house: House, run_id: str) -> Iterator[bool]:
    """Hold a run for the block, so that it does not start; yield whether it could be had."""
    folder = home() / "runs" / run_id
    if not folder.is_dir() or (house.remover.dry_run and not (folder / "lock").exists()):
        yield True  # it has no folder, so no process either
        return
    fd = run_setup.lock_run(run_id)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)
