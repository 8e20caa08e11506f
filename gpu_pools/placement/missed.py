"""Tells which due runs of a schedule a later one stands for, as after a night off."""

from collections.abc import Sequence

from gpu_pools.prefect_client import Run


def superseded(due: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Return (older, newest) for each run whose schedule has made another one that is due, too.

    A run that has begun already, and waits for its next attempt, is no schedule's any more: it has a checkpoint.

    Args:
        due: runs that wait.
    """
    newest: dict[str, Run] = {}
    for run in due:
        if _is_fresh(run) and run.since >= newest.get(run.schedule, run).since:
            newest[run.schedule] = run
    return [(run, newest[run.schedule]) for run in due if _is_fresh(run) and newest[run.schedule].id != run.id]


class Waited:
    """Remembers since when a schedule's run waits: the newest has the place in the queue that the first one took."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, due: Sequence[Run]) -> None:
        """Note the runs that wait now; a schedule that none of them is of has started its run."""
        first: dict[str, float] = {}
        for run in filter(_is_fresh, due):
            known = (first.get(run.schedule), self._since.get(run.schedule), run.since)
            first[run.schedule] = min(since for since in known if since is not None)
        self._since = first

    def since(self, run: Run) -> float:
        """Return since when a run, or one that it stands for, waits, Unix seconds."""
        return self._since.get(run.schedule, run.since) if _is_fresh(run) else run.since


def _is_fresh(run: Run) -> bool:
    return bool(run.schedule) and not run.begun
