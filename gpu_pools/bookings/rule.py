"""Keeps runs from a device that would still be there when it is booked for somebody else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_pools.bookings.booking import Booking, Occurrence, upcoming
from gpu_pools.bookings.estimates import Estimate
from gpu_pools.names import is_called
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import DeviceState
from gpu_pools.placement.queues import Kind
from gpu_pools.placement.wording import clock_text

_LOOK_AHEAD_S = 28 * 86_400.0
"""A gap that is long enough for a run is looked for so far ahead; what comes again does so by then."""

_LEAST_S = 1.0  # nothing starts in the moment before


@dataclass(frozen=True, slots=True)
class _Others:
    """The times at which a device is booked for others than one owner, and the longest gap between them, seconds."""

    times: Sequence[Occurrence]
    longest_gap_s: float


class BookingRule:
    """Lets a run start on a device where it is expected to end before somebody else's booking begins.

    A run that no gap is long enough for, since bookings come again and again, would wait for ever. One that can save
    its state and go on later starts all the same, and makes way when its time is over.

    Args:
        bookings: of this host, by device.
        estimates: by run.
        now: Unix seconds.
        stops: whether a training that is still there is asked to make way.
    """

    everywhere = False

    def __init__(
        self,
        bookings: Mapping[str, Sequence[Booking]],
        estimates: Mapping[str, Estimate],
        now: float,
        *,
        stops: bool,
    ) -> None:
        self._estimates, self._now, self._stops = estimates, now, stops
        longest_s = max((estimate.seconds for estimate in estimates.values()), default=0.0)
        self._horizon = now + _LOOK_AHEAD_S + longest_s
        self._times = {tag: upcoming(found, now, self._horizon) for tag, found in bookings.items()}
        self._others: dict[tuple[str, str], _Others] = {}  # a thousand runs may wait, of a few owners

    def against(self, run: Waiting, device: DeviceState, starting: Mapping[str, Sequence[Waiting]]) -> str | None:
        """Return which booking keeps a run from a device, and how long the run is expected to take."""
        if device.tag not in self._times:
            return None
        others, expected = self._of_others(device.tag, run.owner), self._estimates[run.run_id]
        if not others.times or others.times[0].begin >= self._now + max(expected.seconds, _LEAST_S):
            return None
        met = others.times[0]
        if met.begin <= self._now:
            return f"{device.tag} is {booked(met, self._now)}"
        fits = others.longest_gap_s >= expected.seconds
        if not fits and self._stops and makes_way(run.queue.kind):
            return None
        text = f"{device.tag} is {booked(met, self._now)}; this run {expected.words}"
        return text if fits else f"{text}; no gap between the bookings is as long"

    def _of_others(self, tag: str, owner: str) -> _Others:
        if (tag, owner) not in self._others:
            times = [time for time in self._times[tag] if not is_called(owner, time.booking.owner)]
            end, longest_s = self._now, 0.0
            for time in times:
                longest_s, end = max(longest_s, time.begin - end), max(end, time.end)
            self._others[tag, owner] = _Others(times, max(longest_s, self._horizon - end))
        return self._others[tag, owner]


def makes_way(kind: Kind) -> bool:
    """Return whether runs of a kind can save their state and go on later."""
    return kind == "training"


def booked(time: Occurrence, now: float) -> str:
    """Return a time as people here read it: booked by anna from 14:00 to 16:00, or, once it has begun, until 16:00."""
    who, end = f"booked by {time.booking.owner}", clock_text(time.end, now)
    if time.begin <= now:
        return f"{who} until {end}"
    begin = clock_text(time.begin, now)
    return f"{who} from {begin} to {end[-5:] if begin[:-5] == end[:-5] else end}"
