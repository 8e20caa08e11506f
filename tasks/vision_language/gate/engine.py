"""Asks the engine behind the gate, and reads its answer as it comes."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import aiohttp

from tasks.vision_language.gate.refusal import Refusal

_CONNECT_S = 5.0
_HEALTH_S = 2.0
_MAX_ERROR_BYTES = 64 * 1024
_MAX_LINE_BYTES = 2**20
_PAUSE_S = 0.02  # no reader sees more than 50 steps a second; each costs the gate and the client as much as reading it
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Piece:
    """What the engine said next.

    Args:
        text: of the answer.
        thought: of what a reasoning model thinks before it.
        finish: why it ended, in the last piece: `stop` or `length`.
        usage: numbers of tokens, where the engine counted them.
        n: of how many of the engine's pieces with text or thought it is made.
    """

    text: str = ""
    thought: str = ""
    finish: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    n: int = 0


class Engine:
    """A program of this machine that speaks OpenAI's chat API.

    Args:
        url: where it is, http://127.0.0.1:PORT.
        model: what it calls its model.
        asks_usage: it counts tokens only where it is asked to; one that does not know the question refuses it.
    """

    def __init__(self, url: str, model: str, *, asks_usage: bool) -> None:
        self._url, self._model, self._asks_usage = url, model, asks_usage

    @cached_property
    def _client(self) -> aiohttp.ClientSession:
        """Return what belongs to the event loop that asks first."""
        # A connection for each request: one that is kept may just be closed by the engine.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        # The gate limits the time of the whole request.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        return aiohttp.ClientSession(
            self._url, connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    @asynccontextmanager
    async def answer(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[Piece]]:
        """Yield the pieces of the answer for the block; the generation ends with the block.

        Args:
            body: of the request, in OpenAI's form, without model and stream.

        Raises:
            Refusal: 400, the engine refuses the request; 502, it is gone or answers nonsense.
        """
        asked = {**body, "model": self._model, "stream": True}
        if self._asks_usage:
            asked["stream_options"] = {"include_usage": True}
        data, headers = io.BytesIO(json.dumps(asked).encode()), {"Content-Type": "application/json"}
        try:
            async with self._client.post(
                "/v1/chat/completions", data=data, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await _refused(response)
                yield _pieces(response.content)
        except aiohttp.ClientError as exc:
            raise _gone(f"{type(exc).__name__}: {exc}") from exc

    async def healthy(self) -> bool:
        """Return whether it answers within two seconds."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                status = await self._status("/health")
                return (await self._status("/v1/models") if status == 404 else status) == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _status(self, path: str) -> int:
        async with self._client.get(path, allow_redirects=False) as response:
            return response.status


def _gone(why: str) -> Refusal:
    return Refusal(502, f"the engine behind this server fails ({why[:300]})", "engine_failed")


async def _refused(response: aiohttp.ClientResponse) -> Refusal:
    data = b""
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _MAX_ERROR_BYTES:
            break
    said = " ".join(_sentence(data).split())[:500]
    if 400 <= response.status < 500:
        return Refusal(400, f"the engine refuses the request: {said}", "engine_refused")
    return _gone(f"{response.status}: {said}")


def _sentence(data: bytes) -> str:
    """Return what an error says, whatever form the engine gives it."""
    text = data.decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "detail", "message"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else text


async def _pieces(content: aiohttp.StreamReader) -> AsyncIterator[Piece]:
    """Yield what is said: the first text at once, later what comes within 20 ms in one."""
    ended, over = False, asyncio.Event()
    content.on_eof(over.set)
    async for events in _events(content):
        piece, fault = _joined(events)
        ended = ended or piece.finish is not None
        yield piece
        if fault is not None:
            raise fault
        if events[-1] == _DONE:
            return
        if piece.n:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await over.wait()
    if not ended:
        raise _gone("its answer breaks off")


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[list[bytes]]:
    """Yield the data of server-sent events, of all that have come meanwhile."""
    rest, data = b"", b"\n"
    while data:
        data = await content.readany()
        lines = (rest + data).split(b"\n")
        rest = lines.pop() if data else b""
        if len(rest) > _MAX_LINE_BYTES:
            raise _gone(f"a line of its answer has more than {_MAX_LINE_BYTES} bytes")
        if events := [line[5:].strip() for line in lines if line.startswith(b"data:")]:
            yield events


def _joined(events: Sequence[bytes]) -> tuple[Piece, Refusal | None]:
    """Return what events say in one, up to the first that is wrong, and what is wrong with that."""
    pieces: list[Piece] = []
    fault = None
    try:
        for data in events:
            if data != _DONE:
                pieces.append(_piece(data))
    except Refusal as refusal:
        fault = refusal
    usage: dict[str, int] = {}
    finish = None
    for piece in pieces:
        usage, finish = piece.usage or usage, piece.finish or finish
    text, thought = "".join(piece.text for piece in pieces), "".join(piece.thought for piece in pieces)
    return Piece(text, thought, finish, usage, sum(piece.n for piece in pieces)), fault


def _piece(data: bytes) -> Piece:
    try:
        said = json.loads(data)
        if "error" in said:
            raise _gone(_sentence(data))
        usage = {name: int(n) for name, n in (said.get("usage") or {}).items() if name.endswith("tokens")}
        if not said.get("choices"):
            return Piece(usage=usage)
        choice = said["choices"][0]
        delta = choice.get("delta") or {}
        text, thought = delta.get("content") or "", delta.get("reasoning_content") or ""
        return Piece(str(text), str(thought), choice.get("finish_reason"), usage, int(bool(text or thought)))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise _gone(f"it says {data[:100].decode(errors='replace')!r}") from exc
