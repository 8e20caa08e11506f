"""Reads bookings for who asks all the time, such as a worker."""

from collections.abc import Callable, Sequence

from gpu_pools.bookings.booking import Booking
from gpu_pools.bookings.store import BookingStore
from gpu_pools.prefect_client import PoolClient

_EVERY_S = 3.0


class BookingReader:
    """The bookings of one host, a few seconds old at most.

    Args:
        client: of Prefect's server.
        host: its name.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, host: str, clock: Callable[[], float]) -> None:
        self._store, self._host, self._clock = BookingStore(client.call), host, clock
        self._read_at = float("-inf")
        self._known: Sequence[Booking] = ()

    def read(self) -> Sequence[Booking]:
        """Return the bookings of the host's devices.

        Raises:
            httpx.HTTPError: the server does not answer.
            StorageError: somebody has changed them by hand, and they cannot be read.
        """
        now = self._clock()
        if now - self._read_at >= _EVERY_S:
            self._known = [booking for booking in self._store.read() if booking.host == self._host]
            self._read_at = now
        return self._known

    def renew(self) -> None:
        """Let the next `read` ask the server."""
        self._read_at = float("-inf")
