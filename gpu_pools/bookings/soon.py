"""Leaves word of bookings that begin soon: for who has booked, and for whose runs make way."""

from collections.abc import Callable, Sequence

from gpu_pools.bookings.booking import Occurrence, span, upcoming
from gpu_pools.bookings.reader import BookingReader
from gpu_pools.bookings.rule import makes_way
from gpu_pools.names import is_called, whose
from gpu_pools.placement.queues import device_tags, duration_text, parse_queue
from gpu_pools.sharing.notices import notify
from gpu_pools.sharing.settings import SettingsReader
from gpu_pools.slots.ledger import Entry

SOON_S = 900.0


class BookingsSoon:
    """Call `look` twice a minute; of each time of a booking it leaves word once.

    Args:
        bookings: of this host.
        settings: of the yard: whether runs make way.
        clock: Unix seconds.
    """

    def __init__(self, bookings: BookingReader, settings: SettingsReader, clock: Callable[[], float]) -> None:
        self._bookings, self._settings, self._clock = bookings, settings, clock

    def look(self, runs: Sequence[Entry]) -> None:
        """Leave word of what begins within a quarter of an hour.

        Args:
            runs: that have a device of this host.

        Raises:
            httpx.HTTPError: the server does not answer.
            StorageError: the bookings cannot be read.
        """
        now = self._clock()
        stops = self._settings.read().bookings.stops
        for time in upcoming(self._bookings.read(), now, now + SOON_S):
            if time.begin > now:
                _tell_owner(time, now)
                for run in runs if stops else ():
                    _tell_in_the_way(run, time, now)


def _tell_owner(time: Occurrence, now: float) -> None:
    booking = time.booking
    text = f"{booking.label} is booked for {booking.owner} {span(time)}, in {_left(time, now)}."
    figures = {"until": span(time), "booking": booking.id}
    key = f"{booking.id}:{time.begin:.0f}"
    notify("booking-soon", key, text, owner=booking.owner, device=booking.label, figures=figures)


def _tell_in_the_way(run: Entry, time: Occurrence, now: float) -> None:
    """Tell the owner of a training that it will have to save its state and wait; all else is left."""
    booking = time.booking
    concerned = booking.device in device_tags(run.tag) and not is_called(run.owner, booking.owner)
    if not concerned or not makes_way(parse_queue(run.queue).kind):
        return
    text = (
        f"{whose(run.run_name, run.owner)} saves its state in about {_left(time, now)} and waits: {booking.label} is "
        f"booked by {booking.owner} {span(time)}. It goes on from its checkpoint by itself."
    )
    notify(
        "stopping-soon",
        f"{run.run_id}:{booking.id}:{time.begin:.0f}",
        text,
        owner=run.owner,
        run_id=run.run_id,
        run_name=run.run_name,
        device=booking.label,
    )


def _left(time: Occurrence, now: float) -> str:
    return duration_text(max(60.0, round((time.begin - now) / 60) * 60))
