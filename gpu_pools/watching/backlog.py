"""Counts the values of metrics that runs of this home have written down and MLflow has not got yet."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from tasks.base.workspace import home

JOURNAL, SENT = "journal.jsonl", "sent.json"
"""In the folder of a tracked run: what it sends to MLflow, a line each, and how many bytes of that have arrived."""

_EVERY_S = 30.0


def journals(name: str = "*") -> list[Path]:
    """Return the journals of this home, by their paths.

    Args:
        name: of the folder of a run, its id, or of a sweep; `*`: of all.
    """
    return [path for place in ("runs", "sweeps") for path in sorted((home() / place).glob(f"{name}/*/{JOURNAL}"))]


def read_sent(folder: Path) -> int:
    """Return how many bytes of the journal in `folder` have been sent."""
    try:
        return int(json.loads((folder / SENT).read_bytes())["offset"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0  # sending a line twice adds nothing, so starting over is always right


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much MLflow has not got yet."""

    n_rows: int  # values of metrics
    n_runs: int  # that have any


@dataclass(frozen=True, slots=True)
class _Counted:
    sent: int  # bytes
    end: int  # of the last whole line, bytes
    n_rows: int  # between the two


class BacklogCounter:
    """Counts again and again; of each journal only what is new is read."""

    def __init__(self) -> None:
        self._known: dict[Path, _Counted] = {}

    def count(self) -> Backlog:
        """Return the backlog of now.

        Raises:
            OSError: a journal cannot be read.
        """
        self._known = {path: counted for path in journals() if (counted := self._counted(path)) is not None}
        rows = [counted.n_rows for counted in self._known.values()]
        return Backlog(sum(rows), sum(n > 0 for n in rows))

    def _counted(self, path: Path) -> _Counted | None:
        try:
            size, sent = path.stat().st_size, read_sent(path.parent)
            before = self._known.get(path)
            if before is None or size < before.end or not before.sent <= sent <= before.end:
                before = _Counted(sent, sent, 0)
            arrived, _ = _rows(path, before.sent, sent)
            new, end = _rows(path, before.end, size)
            return _Counted(sent, end, before.n_rows - arrived + new)
        except FileNotFoundError:  # removed meanwhile
            return None


class BacklogReader:
    """The backlog as it was a moment ago, counted in a thread of its own: nobody waits for the disk.

    Attributes:
        last: None until the first count has ended, and after one that failed.
    """

    def __init__(self) -> None:
        self.last: Backlog | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="journal-backlog", daemon=True)

    def start(self) -> None:
        """Begin to count."""
        self._thread.start()

    def close(self) -> None:
        """Count no more."""
        self._stop.set()

    def _read(self) -> None:
        counter = BacklogCounter()
        while not self._stop.is_set():
            try:
                self.last = counter.count()
            except OSError:  # said by the metric that is missing, and by the run itself
                self.last = None
            self._stop.wait(_EVERY_S)


def _rows(path: Path, begin: int, end: int) -> tuple[int, int]:
    """Return the values of metrics in the whole lines between two bytes, and where the last of these lines ends."""
    n_rows = 0
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (line := file.readline()).endswith(b"\n"):
            begin += len(line)
            n_rows += _values(line)
    return n_rows, begin


def _values(line: bytes) -> int:
    try:
        entry = json.loads(line)
        return len(entry["values"]) if entry["op"] == "metrics" else 0
    except (ValueError, KeyError, TypeError):
        return 0  # damaged, which is said by who sends it
