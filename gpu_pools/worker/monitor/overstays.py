"""Asks runs to make way that are still on a device when its booking for somebody else begins."""

from collections.abc import Callable, Mapping, Sequence

from gpu_pools.bookings.booking import Occurrence, upcoming
from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.rule import booked, makes_way
from gpu_pools.names import is_called
from gpu_pools.placement.queues import device_tags, parse_queue
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.slots.lease import Holder, holders
from gpu_pools.slots.ledger import Entry
from gpu_pools.worker.monitor.run_monitor import RunMonitor

GRACE_S = 30.0
"""A training that says that it ends so soon after the beginning of a booking may."""


class Overstays:
    """Call `look` every few seconds.

    A training is asked to save its state, and goes back into its queue. Any other run, and one of a person's own
    process, would lose its work: it is left, and the booking waits for its end.

    Args:
        bookings: of this host.
        monitor: watches the runs, and asks them to end.
        settings: of the yard: whether anything is asked to make way.
        clock: Unix seconds.
    """

    def __init__(
        self, bookings: BookingReader, monitor: RunMonitor, settings: SettingsReader, clock: Callable[[], float]
    ) -> None:
        self._bookings, self._monitor, self._settings, self._clock = bookings, monitor, settings, clock

    def look(self) -> None:
        """Ask the runs that overstay now, once each.

        Raises:
            httpx.HTTPError: the server does not answer.
            StorageError: the bookings, or the locks, cannot be read.
        """
        if not self._monitor.entries():
            return
        now = self._clock()
        begun = upcoming(self._bookings.read(), now, now)
        if not begun or not self._settings.read().bookings.stops:
            return
        held = {holder.run_id: holder for holder in holders()}
        for entry in self._monitor.entries():
            met = overstayed(entry, begun)
            if met is not None and _makes_way(entry) and not _is_about_to_end(held, entry, met, now):
                self._monitor.request_end(entry.run_id, "stop", f"{met.booking.device} is {booked(met, now)}")


def overstayed(run: Entry | Holder, begun: Sequence[Occurrence]) -> Occurrence | None:
    """Return which booking of somebody else a run is in the way of; None: of none.

    Args:
        run: that holds a slot of this host.
        begun: the times of its bookings that have begun and are not over.
    """
    tags = device_tags(run.tag if isinstance(run, Entry) else run.device)
    mine = (time for time in begun if time.booking.device in tags and not is_called(run.owner, time.booking.owner))
    return next(mine, None)


def _makes_way(entry: Entry) -> bool:
    return entry.ending is None and entry.phase == "running" and makes_way(parse_queue(entry.queue).kind)


def _is_about_to_end(held: Mapping[str, Holder], entry: Entry, met: Occurrence, now: float) -> bool:
    """Return whether a run says that it ends so soon that to go on later would take it longer."""
    holder = held.get(entry.run_id)
    progress = holder.progress if holder else None
    if progress is None or progress.remaining_s is None:
        return False
    return max(now, progress.updated + progress.remaining_s) < met.begin + GRACE_S
