"""Keeps runs from a device that would still be there when it is booked for somebody else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_pools.bookings.booking import Booking, Occurrence, belongs, upcoming
from gpu_pools.bookings.estimates import Estimate
from gpu_pools.placement.place import DeviceState, Waiting, clock_text
from gpu_pools.placement.queues import Kind

_LOOK_AHEAD_S = 28 * 86_400.0
"""A gap that is long enough for a run is looked for so far ahead; what comes again does so by then."""


@dataclass(frozen=True, slots=True)
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

    bookings: Mapping[str, Sequence[Booking]]
    estimates: Mapping[str, Estimate]
    now: float
    stops: bool

    def against(self, run: Waiting, device: DeviceState, starting: Mapping[str, Sequence[Waiting]]) -> str | None:
        """Return which booking keeps a run from a device, and how long the run is expected to take."""
        others = [one for one in self.bookings.get(device.tag, ()) if not belongs(run.owner, one.owner)]
        if not others:
            return None
        expected = self.estimates[run.run_id]
        met = next(iter(upcoming(others, self.now, self.now + expected.seconds)), None)
        if met is None:
            return None
        if met.begin <= self.now:
            return f"{device.tag} is {booked(met, self.now)}"
        fits = self._longest_gap(others, expected.seconds) >= expected.seconds
        if not fits and self.stops and makes_way(run.queue.kind):
            return None
        text = f"{device.tag} is {booked(met, self.now)}; this run {expected.words}"
        return text if fits else f"{text}; no gap between the bookings is as long"

    def _longest_gap(self, others: Sequence[Booking], seconds: float) -> float:
        end, longest = self.now, 0.0
        horizon = self.now + _LOOK_AHEAD_S + seconds
        for time in upcoming(others, self.now, horizon):
            longest, end = max(longest, time.begin - end), max(end, time.end)
        return max(longest, horizon - end)


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
