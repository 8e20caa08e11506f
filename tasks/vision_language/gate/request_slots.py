"""Lets so many requests at the engine at once, the others in the order in which they came."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tasks.vision_language.gate.refusal import Refusal

RETRY_AFTER_S = 5


class RequestSlots:
    """Slots for requests; all methods are called in one event loop.

    Args:
        limit: how many there are, at least one.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> int:
        """How many requests have a slot."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._line)

    @property
    def limit(self) -> int:
        """How many slots there are."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit  # those at work stay, also where there are more of them now
        self._call_up()

    @asynccontextmanager
    async def turn(self, wait_s: float) -> AsyncIterator[None]:
        """Hold a slot for the block.

        Args:
            wait_s: how long to wait for one.

        Raises:
            Refusal: 429, there is none.
        """
        await self._enter(wait_s)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, wait_s: float) -> None:
        if self._taken < self._limit and not self._line:
            self._taken += 1
            return
        if wait_s <= 0:
            raise self._busy()
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(called)
        try:
            async with asyncio.timeout(wait_s):
                await called
        except (TimeoutError, asyncio.CancelledError) as exc:
            if called.done() and not called.cancelled():
                self._leave()  # called in the same moment
            elif called in self._line:
                self._line.remove(called)
            if isinstance(exc, TimeoutError):
                raise self._busy() from exc
            raise

    def _leave(self) -> None:
        self._taken -= 1
        self._call_up()

    def _call_up(self) -> None:
        while self._line and self._taken < self._limit:
            called = self._line.popleft()
            if not called.done():
                self._taken += 1
                called.set_result(None)

    def _busy(self) -> Refusal:
        message = f"busy: {self._taken} requests are being answered, at most {self._limit} at once; try again"
        return Refusal(429, message, "busy", RETRY_AFTER_S)


def limit_for(memory_mib: int | None) -> int:
    """Return how many requests a device answers at once.

    Args:
        memory_mib: free memory of a GPU before the model is loaded; None: no GPU. A card of 16 GB has a little less.
    """
    if memory_mib is None or memory_mib < 15_000:
        return 3
    return 5 if memory_mib < 30_000 else 8
