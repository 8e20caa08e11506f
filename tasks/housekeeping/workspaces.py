"""Removes the folders of runs that ended long ago, and checkpoints that nobody goes on from."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gpu_pools.placement.queues import parse_duration
from gpu_pools.process import run_setup
from gpu_pools.watching.backlog import read_sent
from tasks.base.errors import ConfigError, StorageError, TransferError
from tasks.base.outside import read_json
from tasks.base.workspace import home
from tasks.housekeeping.house import House
from tasks.housekeeping.receipt import Entry, Receipt, age_text
from tasks.run.postponed import find_postponed
from tasks.store.arrivals import run_folder
from tasks.store.objects import Objects
from tasks.store.setting import hosts_share_a_disk

GOING = ".removed-"
"""A folder that is being removed has its name begin so: nobody sees half of it."""

_CHECKPOINTS = ("checkpoint.pt", "splat.ckpt", "epochs/epoch-*.pt")
"""What a training writes to go on from, and after each epoch where it is asked to; `best*.pt` and `last.pt` stay."""

_STORE_PATIENCE_S = 5.0
_TOGETHER = 100  # runs that are held, asked about and removed in one go


def remove_folders(house: House, receipt: Receipt) -> None:
    """Remove the folders of runs that ended longer ago than their files are kept."""
    for path in sorted((home() / "runs").glob(f"{GOING}*")):
        receipt.entries.append(Entry("files", path.name, "its removal was cut off", house.remover.remove(path)))

    due = {run_id: why for run_id in house.folders if (why := _why_due(house, run_id, receipt))}
    for run_id in _at_rest(house, receipt, "files", sorted(due)):
        if unsent(house.folders[run_id]):
            receipt.kept.append(Entry("files", run_id, "MLflow does not have all of it yet"))
        else:
            dropped = _dropped(run_id, house.known[run_id].name)
            freed = remove_folder(house, house.folders.pop(run_id))
            receipt.entries.append(Entry("files", run_id, due[run_id], freed))
            _remove_from_store(house, run_id, receipt)
            if dropped is not None:  # the data that it was made of
                freed = remove_folder(house, dropped)
                receipt.entries.append(Entry("files", f"inbox/done/{dropped.name}", due[run_id], freed))


def _remove_from_store(house: House, run_id: str, receipt: Receipt) -> None:
    """Remove what other hosts could bring of a run, where they share no disk."""
    if house.remover.dry_run or hosts_share_a_disk():
        return
    try:
        with Objects.of_environment(patience_s=_STORE_PATIENCE_S) as objects:
            run_folder(objects, run_id).remove()
    except TransferError as exc:
        receipt.notes.append(f"the store keeps the files of run {run_id}: {exc}")


def remove_folder(house: House, folder: Path) -> int:
    """Remove a folder, out of sight first; return how many bytes that frees."""
    if house.remover.dry_run:
        return house.remover.remove(folder)
    gone = home() / "runs" / f"{GOING}{folder.name}"
    gone.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(gone)
    return house.remover.remove(gone)


def _dropped(run_id: str, name: str) -> Path | None:
    """Return the folder of what lay in the inbox for a run: it is called like the run, and its record has the id."""
    folder = home() / "inbox" / "done" / name
    record = folder / "item.json"
    if "/" in name or not record.is_file():
        return None
    try:
        found = read_json(record, StorageError)
    except StorageError:  # damaged: nobody knows whose it is, so it stays
        return None
    return folder if isinstance(found, dict) and found.get("run") == run_id else None


def remove_checkpoints(house: House, receipt: Receipt) -> None:
    """Remove the checkpoints of runs that ended long ago; the best weights stay."""
    if house.keep.checkpoints is None:
        return
    limit_s = parse_duration(house.keep.checkpoints)
    due = [run_id for run_id in house.folders if (ago := house.ended_ago(run_id)) is not None and ago > limit_s]
    found = {run_id: files for run_id in sorted(due) if (files := checkpoints(house.folders[run_id]))}
    for run_id in _at_rest(house, receipt, "checkpoints", list(found)):
        for path in found[run_id]:
            why = f"its run ended more than {age_text(limit_s)} ago"
            name = str(path.relative_to(home()))
            receipt.entries.append(Entry("checkpoints", name, why, house.remover.remove(path)))


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run that has ended: in the folders of its stages, and of their methods."""
    patterns = [f"{depth}{name}" for name in _CHECKPOINTS for depth in ("*/", "*/*/")]
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if not _linked(path, folder)})


def unsent(folder: Path) -> bool:
    """Return whether a run has something that MLflow does not have: lines of its journal, files, a postponed report."""
    journals = [path for path in folder.glob("*/journal.jsonl") if not _linked(path, folder)]
    outboxes = [path for path in folder.glob("*/outbox") if not _linked(path, folder)]
    lines = any(path.stat().st_size > read_sent(path.parent) for path in journals)
    return lines or any(any(outbox.iterdir()) for outbox in outboxes) or bool(find_postponed(folder.name))


def _why_due(house: House, run_id: str, receipt: Receipt) -> str:
    ago = house.ended_ago(run_id)
    if ago is None:
        return ""
    asked = house.known[run_id].keep_files or house.keep.files
    if not asked:
        return ""
    try:
        kept_s = parse_duration(asked)
    except ConfigError as exc:
        receipt.notes.append(f"the files of run {run_id} stay: keep_files: {exc}")
        return ""
    return f"ended {age_text(ago)} ago, kept {age_text(kept_s)}" if ago > kept_s else ""


def _at_rest(house: House, receipt: Receipt, rule: str, due: Sequence[str]) -> Iterator[str]:
    """Yield the runs that may be touched, each while it is held and was seen at its end after that.

    Whoever starts a run holds it first, and then says so on the server. So what is held here, and over there, does not
    start before it is let go.
    """
    for start in range(0, len(due), _TOGETHER):
        group = due[start : start + _TOGETHER]
        with _held(house, group) as held:
            known, protected = house.records.by_id(group), house.protected()
            for run_id in group:
                why = protected.get(run_id) or ("" if run_id in held else "a process holds it")
                if why or run_id not in known or not known[run_id].over:
                    receipt.kept.append(Entry(rule, run_id, why or "it begins again"))
                else:
                    yield run_id


@contextmanager
def _held(house: House, run_ids: Sequence[str]) -> Iterator[Collection[str]]:
    """Hold runs for the block, so that none of them starts; yield those that could be had."""
    held: set[str] = set()
    with ExitStack() as stack:
        for run_id in run_ids:
            if house.remover.dry_run and not (house.folders[run_id] / "lock").exists():
                held.add(run_id)  # a dry run makes no file
            elif house.folders[run_id].is_dir() and (fd := run_setup.lock_run(run_id)) is not None:
                stack.callback(os.close, fd)
                held.add(run_id)
        yield held


def _linked(path: Path, folder: Path) -> bool:
    """Return whether a path below a folder goes through a link, into the folder of another run."""
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder)
