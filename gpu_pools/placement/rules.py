"""The rules of a yard as they are now: what keeps a run from a slot that is free."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.source import BookingSource
from gpu_pools.placement.place import Rule, Waiting
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.memory_forecast import MemoryRules
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.sharing.usage import UsageReader


class RuleSource(Protocol):
    """Knows what one rule stands on: a file, Prefect's server, the records of earlier runs."""

    def rule(self, waiting: Sequence[Waiting]) -> Rule:
        """Return the rule as it is now.

        Args:
            waiting: the runs that it will be asked about.
        """


def rule_sources(
    client: PoolClient, bookings: BookingReader, settings: SettingsReader, clock: Callable[[], float]
) -> Sequence[RuleSource]:
    """Return all that there is to ask before runs are placed.

    Args:
        client: of Prefect's server.
        bookings: of this host.
        settings: of the yard.
        clock: Unix seconds.
    """
    return (BookingSource(bookings, settings, UsageReader(client, clock), clock), MemoryRules(clock))
