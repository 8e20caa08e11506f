"""Finds runs with something that MLflow has not got yet, without MLflow's library."""

from dataclasses import dataclass
from pathlib import Path

from gpu_pools.watching.backlog import JOURNAL, journals, read_sent
from tasks.tracking.journal import read_lines, writer_of


@dataclass(frozen=True, slots=True)
class Unsent:
    """A tracked run whose journal goes on beyond what has been sent."""

    folder: Path
    sent: int  # bytes of the journal
    writer: int | None  # the process that writes it, and sends it by itself

    @property
    def run(self) -> str:
        """Return the id of the run in Prefect; of a sweep its name."""
        return self.folder.parent.name


@dataclass(frozen=True, slots=True)
class Contents:
    """How much of a journal is meant."""

    n_rows: int = 0  # values of metrics
    n_files: int = 0  # files and folders of files
    n_others: int = 0  # parameters, tags, data sets, beginnings and ends


def find_unsent(run: str | None = None) -> list[Unsent]:
    """Return the runs and sweeps of this home with something to send, by their folders' names.

    Args:
        run: only those in the folder of this one; None: all.
    """
    found = []
    for path in journals(run or "*"):
        sent = read_sent(path.parent)
        if _has_line(path, sent):
            found.append(Unsent(path.parent, sent, writer_of(path.parent)))
    return found


def contents(unsent: Unsent) -> Contents:
    """Return what is to be sent.

    Raises:
        TrackingError: a line is damaged.
    """
    n_rows = n_files = n_others = 0
    for entry, _ in read_lines(unsent.folder / JOURNAL, unsent.sent):
        n_rows += len(entry["values"]) if entry["op"] == "metrics" else 0
        n_files += entry["op"] in {"files", "image"}
        n_others += entry["op"] not in {"metrics", "files", "image"}
    return Contents(n_rows, n_files, n_others)


def _has_line(path: Path, offset: int) -> bool:
    """Return whether a journal has a whole line from `offset` on; what a killed process began to write is none."""
    if path.stat().st_size <= offset:
        return False
    with path.open("rb") as file:
        file.seek(offset)
        return any(line.endswith(b"\n") for line in file)
