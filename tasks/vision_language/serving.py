"""Serves a gate until its time is over, nobody asks any more, the engine ends, or a signal comes."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpu_pools.placement.queues import duration_text
from gpu_pools.stopping import asked, look
from tasks.vision_language.engine_process import Running
from tasks.vision_language.gate.app import Gate
from tasks.vision_language.gate.server import listening

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Ends:
    """When a server ends by itself, seconds; None: never.

    Args:
        lasts_s: after its start.
        idle_s: after the last request.
    """

    lasts_s: float | None
    idle_s: float | None


def serve_until(gate: Gate, listener: socket.socket, engine: Running, ends: Ends, say: Callable[[str], None]) -> str:
    """Return why the server has ended.

    Args:
        gate: that is served.
        listener: bound.
        engine: behind it.
        ends: when it ends.
        say: is told the URL, once requests are answered.

    Raises:
        EngineError: the engine has ended.
        Interrupted: a signal has come.
    """
    why = asyncio.run(_serve(gate, listener, engine, ends, say))
    look()
    engine.check()
    return why


async def _serve(gate: Gate, listener: socket.socket, engine: Running, ends: Ends, say: Callable[[str], None]) -> str:
    begun = time.monotonic()
    async with listening(gate.app, listener) as url:
        say(url)
        while not (why := _over(gate, time.monotonic() - begun, ends)):
            if asked() is not None or engine.process.poll() is not None:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
    await gate.engine.close()
    return why


def _over(gate: Gate, age_s: float, ends: Ends) -> str:
    if ends.lasts_s is not None and age_s > ends.lasts_s:
        return f"ended after {duration_text(ends.lasts_s)}, as asked"
    if ends.idle_s is not None and gate.idle_s() > ends.idle_s:
        return f"ended because nobody has asked anything for {duration_text(ends.idle_s)}"
    return ""
