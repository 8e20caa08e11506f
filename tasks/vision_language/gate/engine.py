"""Asks the engine behind the gate, and reads its answer as it comes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tasks.vision_language.gate.refusal import Refusal

_CONNECT_S = 5.0
_MAX_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """What the engine said next.

    Args:
        text: of the answer.
        thought: of what a reasoning model thinks before it.
        finish: why it ended, in the last piece: `stop` or `length`.
        usage: numbers of tokens, where the engine counted them.
    """

    text: str = ""
    thought: str = ""
    finish: str | None = None
    usage: dict[str, int] = field(default_factory=dict)


class Engine:
    """A program of this machine that speaks OpenAI's chat API.

    Args:
        url: where it is, http://127.0.0.1:PORT.
        model: what it calls its model.
        asks_usage: it counts tokens only where it is asked to; one that does not know the question refuses it.
    """

    def __init__(self, url: str, model: str, *, asks_usage: bool) -> None:
        self._model, self._asks_usage = model, asks_usage
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx.Timeout(None, connect=_CONNECT_S)  # the gate limits the time of the whole request
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

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
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=asked) as response:
                if response.status_code != 200:
                    raise await _refused(response)
                yield _pieces(response)
        except httpx.HTTPError as exc:
            raise _gone(f"{type(exc).__name__}: {exc}") from exc

    async def healthy(self) -> bool:
        """Return whether it answers within two seconds."""
        try:
            response = await self._client.get("/health", timeout=2)
            if response.status_code == 404:
                response = await self._client.get("/v1/models", timeout=2)
        except httpx.HTTPError:
            return False
        return response.status_code == 200


def _gone(why: str) -> Refusal:
    return Refusal(502, f"the engine behind this server does not answer ({why[:300]})", "engine_failed")


async def _refused(response: httpx.Response) -> Refusal:
    data = b""
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > _MAX_ERROR_BYTES:
            break
    said = " ".join(_sentence(data).split())[:500]
    if 400 <= response.status_code < 500:
        return Refusal(400, f"the engine refuses the request: {said}", "engine_refused")
    return _gone(f"{response.status_code}: {said}")


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


async def _pieces(response: httpx.Response) -> AsyncIterator[Piece]:
    ended = False
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        piece = _piece(data)
        ended = ended or piece.finish is not None
        yield piece
    if not ended:
        raise _gone("its answer breaks off")


def _piece(data: str) -> Piece:
    try:
        said = json.loads(data)
        if "error" in said:
            raise _gone(_sentence(data.encode()))
        usage = {name: int(n) for name, n in (said.get("usage") or {}).items() if name.endswith("tokens")}
        if not said.get("choices"):
            return Piece(usage=usage)
        choice = said["choices"][0]
        delta = choice.get("delta") or {}
        text, thought = delta.get("content") or "", delta.get("reasoning_content") or ""
        return Piece(str(text), str(thought), choice.get("finish_reason"), usage)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise _gone(f"it says {data[:100]!r}") from exc
