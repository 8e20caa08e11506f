"""Durations in the settings of a yard, as people write them: 30m, 7d."""

from gpu_pools.placement.queues import parse_duration
from tasks.base.errors import ConfigError


def seconds_of(value: str) -> float:
    """Return the seconds of a duration.

    Raises:
        ValueError: it is none; the settings name the field beside it.
    """
    try:
        return parse_duration(value)
    except ConfigError as exc:
        raise ValueError(str(exc)) from exc
