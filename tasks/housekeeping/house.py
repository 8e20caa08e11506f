"""What a round of housekeeping knows: the folders of runs, their records, and who is not to be touched."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tasks.base.workspace import home
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.records import Record, Records
from tasks.housekeeping.removal import Remover

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class House:
    """A home at the beginning of a round.

    Args:
        now: Unix seconds.
        folders: run id -> folder; without those that this round has removed, or would have.
        known: run id -> Prefect's record; a run that Prefect does not know is not in it.
    """

    keep: KeepParams
    now: float
    remover: Remover
    records: Records
    folders: dict[str, Path]
    known: Mapping[str, Record]

    def ended_ago(self, run_id: str) -> float | None:
        """Return the seconds since the end of a run; None: it lives, or Prefect does not know it."""
        record = self.known.get(run_id)
        return self.now - record.ended if record is not None and record.over and record.ended is not None else None

    def protected(self) -> dict[str, str]:
        """Return run id -> why nothing of it is removed, as it is by now: runs start during a round.

        Raises:
            httpx.HTTPError: Prefect does not answer.
        """
        pinned = self.records.pinned()
        pinned += self.records.stages([record.id for record in pinned])
        names = {record.id: record.name for record in pinned}
        return protection(self.records.living(), names, linked(self.folders), self.folders)


def look_around(records: Records, keep: KeepParams, remover: Remover, now: float) -> House:
    """Return the home as it is.

    Raises:
        httpx.HTTPError: Prefect does not answer; nothing is removed without its word.
    """
    folders = run_folders()
    return House(keep, now, remover, records, folders, records.by_id(list(folders)))


def run_folders() -> dict[str, Path]:
    """Return the folders of runs by their ids; what has no id for a name is not ours."""
    root = home() / "runs"
    return {path.name: path for path in root.iterdir() if _is_id(path.name)} if root.is_dir() else {}


def linked(folders: Mapping[str, Path]) -> dict[str, str]:
    """Return stage -> run in whose folder its files lie."""
    found = {}
    for run_id, folder in folders.items():
        link = folder / "files"
        if link.is_symlink() and (target := link.readlink().name) in folders:
            found[run_id] = target
    return found


def protection(
    living: Iterable[Record], pinned: Mapping[str, str], links: Mapping[str, str], folders: Collection[str]
) -> dict[str, str]:
    """Return run id -> why nothing of it is removed.

    A run that has not ended needs its own folder, the one it is a stage of, and those that its parameters name: it
    may read them at any time. The folder of a pinned run is its stages', too.

    Args:
        living: runs that have not ended.
        pinned: id -> name.
        links: stage -> run in whose folder its files lie.
        folders: ids of all that have one.
    """
    reasons = {run_id: f"{name} is pinned" for run_id, name in pinned.items()}
    for run in living:
        reasons[run.id] = f"{run.name} has not ended: {run.state}"
        for read in _ID.findall(run.parameters):
            if read in folders and read != run.id:
                reasons.setdefault(read, f"{run.name} reads it")
    for stage, pipeline in links.items():
        if why := reasons.get(stage):
            reasons.setdefault(pipeline, f"its stage {why}")
    for stage, pipeline in links.items():
        if why := reasons.get(pipeline):
            reasons.setdefault(stage, why)
    return reasons


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
