"""The rules of a yard as they are now: what keeps a run from a slot that is free."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gpu_pools.bookings.source import BookingSource
from gpu_pools.names import host_name
from gpu_pools.placement.place import Rule, Waiting
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.memory_forecast import MemoryRules
from gpu_pools.sharing.usage import UsageReader


class RuleSource(Protocol):
    """Knows what one rule stands on: a file, Prefect's server, the records of earlier runs."""

    def rule(self, waiting: Sequence[Waiting]) -> Rule:
        """Return the rule as it is now.

        Args:
            waiting: the runs that it will be asked about.
        """


def rule_sources(client: PoolClient, clock: Callable[[], float]) -> Sequence[RuleSource]:
    """Return all that there is to ask before runs are placed.

    Args:
        client: of Prefect's server.
        clock: Unix seconds.
    """
    usage = UsageReader(client, clock)
    return (BookingSource(client, host_name(), usage, clock), MemoryRules(clock))
