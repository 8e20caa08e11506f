"""Knows for each turn of placement which devices are booked, and how long the runs that wait will take."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from gpu_pools.bookings.booking import Booking
from gpu_pools.bookings.estimates import Durations, Ended, estimate
from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.rule import BookingRule
from gpu_pools.names import is_called
from gpu_pools.placement.order import Waiting
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.sharing.usage import UsageReader


class BookingSource:
    """Gives the rule of bookings; without one on this host it asks for nothing else.

    Args:
        bookings: of this host.
        settings: of the yard.
        usage: the runs that ended, to learn from.
        clock: Unix seconds.
    """

    def __init__(
        self, bookings: BookingReader, settings: SettingsReader, usage: UsageReader, clock: Callable[[], float]
    ) -> None:
        self._bookings, self._settings, self._usage, self._clock = bookings, settings, usage, clock
        self._durations = Durations()
        self._learned: float | None = None  # when what they stand on was read

    def told(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Return the runs with the GPUs that their owners have booked now."""
        now = self._clock()
        held = [one for one in self._bookings.read() if any(time.begin <= now for time in one.times(now, now))]
        if not held:
            return list(waiting)

        def own(run: Waiting) -> frozenset[str]:
            return frozenset(booking.device for booking in held if is_called(run.owner, booking.owner))

        return [replace(run, booked=own(run)) for run in waiting]

    def renew(self) -> None:
        """Read the bookings anew before the next answer: one may have been made a moment ago."""
        self._bookings.renew()

    def rule(self, waiting: Sequence[Waiting]) -> BookingRule:
        """Return the rule as it is now."""
        by_device = defaultdict[str, list[Booking]](list)
        for booking in self._bookings.read():
            by_device[booking.device].append(booking)
        if not by_device:
            return BookingRule({}, {}, self._clock(), stops=True)
        durations = self._learn()
        estimates = {run.run_id: estimate(run, durations.of(run)) for run in waiting}
        stops = self._settings.read().bookings.stops
        return BookingRule(by_device, estimates, self._clock(), stops=stops)

    def _learn(self) -> Durations:
        """Return how long runs took: learned anew only when ends of others have been read, as turns are frequent."""
        read_at, uses = self._usage.read_at, self._usage.uses()
        if read_at != self._learned:
            done = [use for use in uses if use.state == "COMPLETED" and use.on_gpu]
            done.sort(key=lambda use: use.until)
            self._durations, self._learned = Durations(), read_at
            self._durations.learn(Ended(use.run_name, use.owner, use.flow_id, use.ran_s) for use in done)
        return self._durations
