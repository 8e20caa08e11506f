"""Cleans up after a run whose process is gone, and ends its MLflow run.

`python -m tasks.tracking.dead_run_cleanup RUN_FOLDER KILLED|FAILED`.
What is half written goes, MLflow learns what became of the run; checkpoints and finished stages stay. Done twice it
has the same effect as once. Every fault is a line on stderr. Exit status 1: call again later, MLflow or a process may
do its part by then; 0: done, or nothing that a later call could mend is left.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from mlflow.exceptions import MlflowException

from tasks.base.errors import StorageError, TrackingError, TrainyardError
from tasks.base.workspace import MADE_WITH, storage_errors
from tasks.tracking import mlflow_api
from tasks.tracking.journal import Card, Journal, read_card, sole_writer
from tasks.tracking.uploader import Status, first_line, upload

# As `tempfile.mkstemp` ends the names that `tasks.base.workspace.replacing` begins.
_UNFINISHED = re.compile(r".+\.tmp(-wal|-shm|-journal)?")  # the latter: beside a database of SQLite
_TORN = re.compile(r"\..+\.[a-z0-9_]{8}")


def close(folder: Path, status: Status) -> list[TrainyardError]:
    """Tidy up the folder of a run and tell MLflow what became of it; return what could not be done.

    Args:
        folder: of the run; that there is none is no fault.
        status: for the tracked runs below it that have not ended.
    """
    if not folder.is_dir():
        return []
    tracked = [path.parent for path in _files(folder) if path.name == "run.json"]
    for place in tracked:
        try:
            with sole_writer(place):
                pass
        except (TrackingError, StorageError) as exc:
            return [exc]  # the process lives: what looks half written may be its work
    faults: list[TrainyardError] = []
    try:
        remove_partial_files(folder)
    except StorageError as exc:
        faults.append(exc)
    for place in tracked:
        try:
            _end(place, status)
        except (TrackingError, StorageError) as exc:
            faults.append(exc)
    return faults


def may_pass(fault: TrainyardError) -> bool:
    """Return whether a later call may succeed: MLflow is away, the disk full; not: a run was deleted there."""
    return isinstance(fault, StorageError) or (isinstance(fault, TrackingError) and mlflow_api.is_away(fault))


def remove_partial_files(folder: Path) -> None:
    """Remove what was being written below `folder` when its process ended, and the folder `tmp` in it.

    Raises:
        StorageError: something cannot be removed.
    """
    for path in partial_files(folder):
        with storage_errors(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def partial_files(folder: Path) -> list[Path]:
    """Return what was being written below `folder` when its process ended, and the folder `tmp` in it."""
    left_over = [path for path in folder.glob("tmp") if path.is_dir()]
    return left_over + [path for path in _files(folder) if _UNFINISHED.fullmatch(path.name) or _is_torn(path)]


def _is_torn(path: Path) -> bool:
    return bool(_TORN.fullmatch(path.name)) and not path.is_dir()


def _files(folder: Path) -> Iterator[Path]:
    """Yield all below a folder that a process may have been writing, a temporary folder as one."""
    for path in sorted(folder.iterdir()):
        # A stage with this file is whole, and holds names that are not ours; what waits for MLflow is sent first.
        inside = path.is_dir() and not path.is_symlink() and path.name != "outbox"
        if inside and not path.name.endswith(".tmp") and not (path / MADE_WITH).is_file():
            yield from _files(path)
        else:
            yield path


def _end(place: Path, status: Status) -> None:
    """Send what a tracked run has not sent and set its status, unless both is done.

    Raises:
        TrackingError: MLflow does not take it, or someone deleted the run there.
    """
    card = read_card(place)
    if card is None or not (place / "journal.jsonl").is_file():
        return  # killed before MLflow could hear of it
    with sole_writer(place), closing(Journal(place)) as journal:
        done = journal.ended and journal.all_sent
    if done:
        return
    _check_there(card, place)
    upload(place, status)


def _check_there(card: Card, place: Path) -> None:
    if card.run_id is None:
        return
    try:
        there = mlflow_api.client().get_run(card.run_id).info.lifecycle_stage == "active"
    except mlflow_api.TRANSIENT as exc:
        if not isinstance(exc, MlflowException) or exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise TrackingError(f"cannot end run {card.run_id} of {place} in MLflow: {first_line(exc)}") from exc
        there = False
    if not there:
        raise TrackingError(f"run {card.run_id} of {place} was deleted in MLflow: nothing to end")


def main(argv: Sequence[str]) -> int:
    """Return the exit status of the command."""
    parser = argparse.ArgumentParser(prog="python -m tasks.tracking.dead_run_cleanup", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("status", choices=("KILLED", "FAILED"), help="what became of it")
    given = parser.parse_args(argv)
    faults = close(given.folder, given.status)
    for fault in faults:
        print(" ".join(str(fault).split()), file=sys.stderr)
    return int(any(may_pass(fault) for fault in faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
