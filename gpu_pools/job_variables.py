"""Reads the job variables of a run: priority, time limit, owner."""

from gpu_pools.names import FROM_PAGE, FROM_SCHEDULE
from gpu_pools.placement.queues import Kind, default_priority, parse_duration, parse_queue
from gpu_pools.prefect_client import Run
from tasks.base.errors import ConfigError


def time_limit_s(run: Run) -> float | None:
    """Return the time limit of a run, seconds; that of a pipeline, which only waits, is each of its stages'.

    Raises:
        ConfigError: it is no duration.
    """
    asked = run.job_variables.get("time_limit")
    try:
        seconds = parse_duration(asked) if asked else None
    except ConfigError as exc:
        raise ConfigError(f"time_limit: {exc}") from exc
    return None if parse_queue(run.queue).kind == "pipeline" else seconds


def known_limit_s(run: Run) -> float | None:
    """Return the time limit of a run, seconds; None for none, and for one that is no duration: it will not start."""
    try:
        return time_limit_s(run)
    except ConfigError:
        return None


def priority_of(run: Run | None, kind: Kind) -> int:
    """Return the priority of a run, 1 (first) to 10; that of its kind where it has none of its own, or no valid one."""
    asked = run.job_variables.get("priority") if run else None
    return asked if isinstance(asked, int) and 1 <= asked <= 10 else default_priority(kind)


def owner_of(run: Run) -> str:
    """Return who asked for a run, as it says itself: never who runs the yard."""
    return run.owner or (FROM_SCHEDULE if run.scheduled else FROM_PAGE)


def refuses(run: Run) -> bool:
    """Return whether a run is to be cancelled where it would have to wait."""
    return run.job_variables.get("when_busy") == "refuse"
