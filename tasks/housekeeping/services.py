"""Removes Prefect's records of runs that ended long ago, and puts aside the logs of services that have grown."""

import shutil
from pathlib import Path

from gpu_pools.placement.disk import parse_size, size_text
from gpu_pools.placement.queues import parse_duration
from tasks.base.workspace import home
from tasks.housekeeping.house import House
from tasks.housekeeping.receipt import Entry, Receipt, age_text

_OLD = ".old.log"


def remove_records(house: House, receipt: Receipt) -> None:
    """Remove the records of runs that ended long ago, with their logs.

    Prefect's own service for that (database vacuum) would remove those of pinned runs, too. It removes, once a day, the
    artifacts that are left without a run.
    """
    if house.keep.records is None:
        return
    limit_s = parse_duration(house.keep.records)
    protected = house.protected()
    names: dict[str, str] = {}
    for record in house.records.ended_before(house.now - limit_s):
        if why := protected.get(record.id) or _folder_goes_first(house, record.id):
            receipt.kept.append(Entry("records", record.id, why))
        else:
            names[record.id] = record.name
    why = f"ended more than {age_text(limit_s)} ago"

    def note(run_id: str) -> None:
        receipt.entries.append(Entry("records", f"{names[run_id]} ({run_id})", why))

    if house.remover.dry_run:
        for run_id in names:
            note(run_id)
    else:
        house.records.delete(list(names), note)


def rotate_logs(house: House, receipt: Receipt) -> None:
    """Put the content of logs that have grown aside, in place of what was put aside before.

    A service writes on into the same file, which is emptied: it appends, so nothing is written over. A line that comes
    between the copy and the emptying is lost.
    """
    limit = parse_size(house.keep.service_logs)
    for log in sorted((home() / "logs").glob("*.log")):
        if log.name.endswith(_OLD) or log.is_symlink() or (size := log.stat().st_size) <= limit:
            continue
        old = log.with_name(log.name.removesuffix(".log") + _OLD)
        before = _blocks(log) + _blocks(old)
        if house.remover.dry_run:
            freed = _blocks(old)
        else:
            shutil.copyfile(log, old)
            with log.open("r+b") as file:
                file.truncate()
            freed = before - _blocks(log) - _blocks(old)
        why = f"{size_text(size)}, more than {size_text(limit)}: its content is in {old.name}"
        receipt.entries.append(Entry("service_logs", str(log.relative_to(home())), why, freed))


def _folder_goes_first(house: House, run_id: str) -> str:
    """Return why a record stays whose folder is still to be removed: it says for how long its files are kept."""
    record, folder = house.known.get(run_id), house.folders.get(run_id)
    waits = record is not None and record.keep_files and folder is not None and folder.is_dir()
    return "its folder is still here, and this says for how long" if waits else ""


def _blocks(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.exists() else 0
