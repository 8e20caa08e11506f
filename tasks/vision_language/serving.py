"""Serves a gate until its time is over, nobody asks any more, or it is told to end."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpu_pools.periodic import Periodic
from gpu_pools.placement.queues import duration_text
from gpu_pools.stopping import asked, look
from tasks.vision_language.engine_process import Running
from tasks.vision_language.gate.app import Gate
from tasks.vision_language.gate.server import listening
from tasks.vision_language.record import EVERY_S

_LOOK_EVERY_S = 0.2
_RIVAL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Ends:
    """When a server ends by itself, seconds; None: never.

    Args:
        lasts_s: after its start.
        idle_s: after the last request.
        give_way_s: after the last request, where a run of higher priority waits for its slot.
    """

    lasts_s: float | None
    idle_s: float | None
    give_way_s: float | None


@dataclass(frozen=True, slots=True)
class Around:
    """What a server tells and asks while it serves.

    Args:
        say: is told the URL, once requests are answered.
        record: is called now and then, and at the end.
        who_waits: returns which run of higher priority waits for the slot, empty for none; it may take seconds.
    """

    say: Callable[[str], None]
    record: Callable[[], None]
    who_waits: Callable[[], str]


def serve_until(gate: Gate, listener: socket.socket, engine: Running, ends: Ends, around: Around) -> str:
    """Return why the server has ended.

    Args:
        gate: that is served.
        listener: bound.
        engine: behind it.
        ends: when it ends.
        around: whom it tells and asks.

    Raises:
        EngineError: the engine has ended.
        Interrupted: a signal has come.
    """
    try:
        why = asyncio.run(_serve(gate, listener, engine, ends, around))
    finally:
        around.record()
    look()
    engine.check()
    return why


async def _serve(gate: Gate, listener: socket.socket, engine: Running, ends: Ends, around: Around) -> str:
    begun = time.monotonic()
    record = Periodic(around.record, EVERY_S, time.monotonic)
    rival = _Rival(gate, ends.give_way_s, around.who_waits)
    try:
        async with listening(gate.app, listener) as url:
            around.say(url)
            while not (why := _over(gate, time.monotonic() - begun, ends) or await rival.look()):
                if asked() is not None or engine.process.poll() is not None:
                    break
                record()
                await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        await gate.engine.close()
    return why


class _Rival:
    """Asks now and then, while the gate is idle, whether somebody else needs its place."""

    def __init__(self, gate: Gate, after_s: float | None, who_waits: Callable[[], str]) -> None:
        self._gate, self._after_s, self._who_waits = gate, after_s, who_waits
        self._asked_at = float("-inf")

    async def look(self) -> str:
        """Return why the server is to end; empty: it goes on."""
        after_s, now = self._after_s, time.monotonic()
        if after_s is None or self._gate.idle_s() < after_s or now - self._asked_at < _RIVAL_EVERY_S:
            return ""
        self._asked_at = now
        rival = await asyncio.to_thread(self._who_waits)
        if not rival or self._gate.idle_s() < after_s:  # somebody has asked meanwhile
            return ""
        return f"ended for {rival}, of higher priority: nobody has asked anything for {duration_text(after_s)}"


def _over(gate: Gate, age_s: float, ends: Ends) -> str:
    if ends.lasts_s is not None and age_s > ends.lasts_s:
        return f"ended after {duration_text(ends.lasts_s)}, as asked"
    if ends.idle_s is not None and gate.idle_s() > ends.idle_s:
        return f"ended because nobody has asked anything for {duration_text(ends.idle_s)}"
    return ""
