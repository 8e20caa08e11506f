"""What a yard has agreed on: who goes first, and what keeps a run from a slot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.source import BookingSource
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Rule
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.fair_share import FairShare
from gpu_pools.sharing.memory_forecast import MemoryRules
from gpu_pools.sharing.quotas import QuotaSource
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.sharing.usage import UsageReader


class RuleSource(Protocol):
    """Knows what one rule stands on: a file, Prefect's server, the records of earlier runs."""

    def rule(self, waiting: Sequence[Waiting]) -> Rule:
        """Return the rule as it is now.

        Args:
            waiting: the runs that it will be asked about.
        """


@dataclass(frozen=True, slots=True)
class Policy:
    """All that there is to ask before runs are placed; without a server nothing.

    Args:
        fair_share: knows who had how much lately.
        bookings: know which GPUs are whose now.
        sources: of the rules.
    """

    fair_share: FairShare | None = None
    bookings: BookingSource | None = None
    sources: Sequence[RuleSource] = ()

    def renew(self) -> None:
        """Let the next look see a booking that has just been made: it decides on a start."""
        if self.bookings:
            self.bookings.renew()

    def note_start(self, run: Waiting) -> None:
        """Let the next look know that a run starts.

        Args:
            run: one that was placed.
        """
        if self.fair_share:
            self.fair_share.note_start(run)

    def look(self, waiting: Sequence[Waiting]) -> tuple[list[Waiting], list[Rule]]:
        """Return the runs with what `place` is to know of their owners, and the rules, as both are now."""
        told = self.fair_share.told(waiting) if self.fair_share else list(waiting)
        told = self.bookings.told(told) if self.bookings else told
        return told, [source.rule(told) for source in self.sources]


def yard_policy(
    client: PoolClient, host: str, bookings: BookingReader, settings: SettingsReader, clock: Callable[[], float]
) -> Policy:
    """Return the policy of a yard.

    Args:
        client: of Prefect's server.
        host: this one's name.
        bookings: of this host.
        settings: of the yard.
        clock: Unix seconds.
    """
    usage = UsageReader(client, clock)
    quotas, booked = QuotaSource(usage, settings, host, clock), BookingSource(bookings, settings, usage, clock)
    return Policy(FairShare(usage, settings, clock), booked, (quotas, booked, MemoryRules(clock)))
