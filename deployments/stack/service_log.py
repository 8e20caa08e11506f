"""Finds failing background services in the log of Prefect's server."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

_TAIL_BYTES = 2**20
_WINDOW = timedelta(minutes=10)
_NOW = timedelta(seconds=150)
"""The slowest of these services that matter for runs comes round once a minute."""

_SLOW_WINDOW = timedelta(hours=3)  # what removes old rows comes round once an hour
_LEAST = 2  # one failure may be a database that was busy
_ENTRY = re.compile(r"(\d\d:\d\d:\d\d)\.\d+ \| (\w+) +\| ([\w.]+) - (.*)")
_SERVICES = ("prefect.server.services.", "prefect.server.events.", "docket.")
_RUN = re.compile(r"\S+ \[[^\]]*\] (\w+)")  # "[12ms] schedule_deployments{...}"
_RAISED = re.compile(r"[A-Za-z_][\w.]*(: .*)?")


@dataclass(frozen=True, slots=True)
class Failure:
    """A service that has failed once."""

    at: datetime
    service: str
    reason: str


def failing(log: Path, since: datetime, now: datetime) -> list[str]:
    """Return a sentence for each service that fails again and again, up to now.

    Args:
        log: of Prefect's server; its lines have the time of day, of this machine.
        since: when that server was started, local time without a zone; what one before it has written does not count.
        now: the time, likewise.
    """
    found: dict[str, list[Failure]] = {}
    for failure in failures(_tail(log), _written(log)):
        if failure.at >= since.replace(microsecond=0):
            found.setdefault(failure.service, []).append(failure)
    return [fault for each in found.values() if (fault := _fault(each, now, log))]


def _fault(failures: Sequence[Failure], now: datetime, log: Path) -> str:
    slow = "vacuum" in failures[0].service
    window, recent = (_SLOW_WINDOW, _SLOW_WINDOW) if slow else (_WINDOW, _NOW)
    times = [failure.at for failure in failures if failure.at > now - window]
    if len(times) < _LEAST or times[-1] < now - recent:
        return ""
    last = failures[-1]
    return (
        f"Prefect's service {last.service} has failed {len(times)} times since {times[0]:%H:%M}, "
        f"last at {last.at:%H:%M:%S}: {last.reason[:200]}; see {log}"
    )


def failures(lines: Sequence[str], written: datetime) -> Iterator[Failure]:
    """Yield the failures of services in a log, oldest first.

    Args:
        lines: of the log; errors are followed by their traceback.
        written: when the last line was, local time.
    """
    starts = [n for n, line in enumerate(lines) if _ENTRY.match(line)]
    found = []
    day, later = written.date(), written.time()
    for first, end in reversed(list(zip(starts, [*starts[1:], len(lines)], strict=False))):
        at_text, level, logger, text = _ENTRY.match(lines[first]).groups()  # type: ignore[union-attr]
        at = datetime.strptime(at_text, "%H:%M:%S").time()
        if at > later:  # read backwards: it was before midnight
            day -= timedelta(days=1)
        later = at
        if level in ("ERROR", "CRITICAL") and logger.startswith(_SERVICES):
            found.append(Failure(datetime.combine(day, at), _service(logger, text), _reason(lines[first:end])))
    yield from reversed(found)


def _service(logger: str, text: str) -> str:
    run = _RUN.match(text)
    return run[1] if logger.startswith("docket.") and run else logger.rpartition(".")[2]


def _reason(entry: Sequence[str]) -> str:
    """Return the last line of a traceback that names what was raised, else the first line of the entry."""
    raised = [line for line in entry[1:] if _RAISED.fullmatch(line) and not line.startswith("Traceback ")]
    return raised[-1] if raised else entry[0].partition(" - ")[2]


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _written(log: Path) -> datetime:
    return datetime.fromtimestamp(log.stat().st_mtime).replace(microsecond=999_999) if log.exists() else datetime.min
