"""Answers one chat request in its turn, and frees all that it took, whatever its end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from tasks.base.servers.guard import Receive, Scope, Send, headers_of
from tasks.vision_language.gate.answers import Form, event
from tasks.vision_language.gate.counters import LEFT, Counters, Watch
from tasks.vision_language.gate.engine import Engine, Piece
from tasks.vision_language.gate.order import Order
from tasks.vision_language.gate.refusal import Refusal
from tasks.vision_language.gate.request_slots import RequestSlots
from tasks.vision_language.params import GateParams

R = TypeVar("R")
Read = Callable[[bytes, str], Order]
"""Makes an order of a body and its content type."""

_MIB = 2**20
_DRAIN_S = 5.0


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Reply:
    """What goes back to the client.

    Args:
        send: of ASGI.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def document(self, status: int, value: Any, headers: dict[str, str]) -> None:
        """Answer with a JSON document."""
        body = json.dumps(value).encode()
        await self._start(status, {"content-type": "application/json", "content-length": str(len(body)), **headers})
        await self._send({"type": "http.response.body", "body": body})

    async def events(self, data: bytes) -> None:
        """Add to a stream of events, which begins with the first."""
        if not self.begun:
            await self._start(200, {"content-type": "text/event-stream", "cache-control": "no-cache"})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refusal) -> None:
        """Say why not; in a stream that has begun as its last event."""
        if self.begun:
            await self.events(event(refusal.as_json()))
            await self.end()
        else:
            await self.document(refusal.status, refusal.as_json(), refusal.headers())

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        lines = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})


class Door:
    """An ASGI application that answers chat requests of one form.

    Args:
        engine: that is asked.
        slots: of which it takes one for each request.
        counters: that count.
        params: the limits.
        read: makes an order of a request.
        form: makes the form of the answer to an order.
    """

    def __init__(
        self,
        engine: Engine,
        slots: RequestSlots,
        counters: Counters,
        params: GateParams,
        *,
        read: Read,
        form: Callable[[Order], Form],
    ) -> None:
        self._engine, self._slots, self._counters, self._params = engine, slots, counters, params
        self._read, self._form = read, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        reply, answer = Reply(send), "200"
        try:
            await self._in_turn(headers_of(scope), receive, reply)
        except Refusal as refusal:
            answer = str(refusal.status)
            await reply.refuse(refusal)
        except ClientLeft:
            answer = LEFT
        except asyncio.CancelledError:  # the server ends
            answer = LEFT
            raise
        finally:
            self._counters.requests.labels(answer).inc()

    async def _in_turn(self, headers: dict[str, str], receive: Receive, reply: Reply) -> None:
        watch = Watch(self._counters)
        try:
            async with self._slots.turn(self._params.wait_s):
                # Only now: what waits in the line takes no memory.
                data = await read_body(receive, self._params.max_body_mib * _MIB, self._params.body_limit_s)
                work = self._in_time(data, headers.get("content-type", ""), watch, reply)
                await while_there(receive, work)
        except Refusal as refusal:
            if refusal.status == 429:
                await _drain(receive, self._params.max_body_mib * _MIB)
            raise

    async def _in_time(self, data: bytes, content_type: str, watch: Watch, reply: Reply) -> None:
        try:
            async with asyncio.timeout(self._params.time_limit_s):
                order = await asyncio.to_thread(self._read, data, content_type)
                async with self._engine.answer(order.body) as pieces:
                    respond = self._stream if order.stream else self._whole
                    await respond(pieces, self._form(order), watch, reply)
        except TimeoutError as exc:
            message = f"the answer took longer than {self._params.time_limit_s:g} s, and was ended"
            raise Refusal(504, message, "time_limit") from exc

    async def _stream(self, pieces: AsyncIterator[Piece], form: Form, watch: Watch, reply: Reply) -> None:
        usage: dict[str, int] = {}
        async for piece in pieces:
            usage = piece.usage or usage
            if piece.text or piece.thought or piece.finish:
                watch.said(piece.n)
                if data := form.piece(piece, first=not reply.begun):
                    await reply.events(data)
        await reply.events(form.last(watch.ended(usage)))
        await reply.end()

    async def _whole(self, pieces: AsyncIterator[Piece], form: Form, watch: Watch, reply: Reply) -> None:
        usage: dict[str, int] = {}
        texts, thoughts, finish = [], [], None
        async for piece in pieces:
            usage, finish = piece.usage or usage, piece.finish or finish
            texts.append(piece.text)
            thoughts.append(piece.thought)
            watch.said(piece.n)
        answer = Piece("".join(texts), "".join(thoughts), finish)
        await reply.document(200, form.whole(answer, watch.ended(usage)), {})


async def read_body(receive: Receive, max_bytes: int, limit_s: float) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: 413, it is larger; 408, it takes longer.
        ClientLeft: it ends before its end.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise Refusal(
                        413, f"found a request of more than {max_bytes} bytes, need less", "request_too_large"
                    )
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as exc:
        raise Refusal(408, f"the request did not arrive within {limit_s:g} s", "request_too_slow") from exc


async def while_there(receive: Receive, work: Coroutine[Any, Any, R]) -> R:
    """Return what `work` returns; it is ended when the client goes away.

    Raises:
        ClientLeft: it went.
    """
    job, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise ClientLeft
    finally:
        job.cancel()
        gone.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)  # the slot is given back after that


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _drain(receive: Receive, max_bytes: int) -> None:
    """Read on without keeping it: many clients read no answer before they have sent all."""
    n_bytes = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while n_bytes <= max_bytes:
                message = await receive()
                n_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return  # it is told all the same
