"""Servers for tests: an engine that does what its question says, and a gate in front of any engine, both real ones."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tasks.images.params import PrepareParams
from tasks.vision_language.gate.app import Gate
from tasks.vision_language.gate.engine import Engine
from tasks.vision_language.gate.server import listening, open_socket
from tasks.vision_language.params import GateParams

MODEL = "tiny"


@dataclass
class FakeEngine:
    """Speaks OpenAI's API; the text of the last question says how it answers.

    `words N`: N words at once; `slow`: a word each 20 ms, without end; `hang`: nothing; `break`: half an answer;
    `nonsense`: what is no JSON; `refuse`: 422; `fail`: 500 in plain text; `error`: an error amid the stream;
    anything else: one word, or what `says` has.
    """

    running: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    says: str = ""
    url: str = ""

    def app(self) -> Starlette:
        chat = Route("/v1/chat/completions", self._chat, methods=["POST"])
        return Starlette(routes=[chat, Route("/health", self._health), Route("/v1/models", self._models)])

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "fake"}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        word = next(p["text"] for p in body["messages"][-1]["content"] if p["type"] == "text").split()
        if word[0] == "refuse":
            return JSONResponse({"detail": "Unsupported fields: [seed]"}, 422)
        if word[0] == "fail":
            return PlainTextResponse("Internal Server Error", 500)
        return StreamingResponse(self._counted(word), media_type="text/event-stream")

    async def _counted(self, word: list[str]) -> AsyncIterator[str]:
        self.running += 1
        try:
            async for event in self._events(word):
                yield event
        finally:
            self.running -= 1

    async def _events(self, word: list[str]) -> AsyncIterator[str]:
        yield chunk({"role": "assistant"})
        if word[0] == "hang":
            await asyncio.sleep(3600)
        if word[0] == "nonsense":
            yield "data: [1, \n\n"
        if word[0] == "error":
            yield chunk({"content": "half"})
            yield 'data: {"error": "out of memory"}\n\n'
            return
        n = 1_000_000 if word[0] == "slow" else int(word[1]) if word[0] == "words" else 1
        words = self.says.split() if n == 1 else []
        n = len(words) or n
        for said in words or (f"w{number}" for number in range(n)):
            yield chunk({"content": f"{said} "})
            await asyncio.sleep(0.02 if word[0] == "slow" else 0)
        if word[0] != "break":
            usage = {"prompt_tokens": 7, "completion_tokens": n, "total_tokens": 7 + n}
            yield chunk({}, "stop", usage)
            yield "data: [DONE]\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> str:
    said = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": usage}
    return f"data: {json.dumps(said)}\n\n"


@contextmanager
def in_thread(make: Any) -> Iterator[Any]:
    """Run an async context manager's block in a loop of its own; yield what it yields."""
    ready, over, box = threading.Event(), threading.Event(), {}

    async def hold() -> None:
        async with make() as value:
            box["value"] = value
            ready.set()
            while not over.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(hold()), daemon=True)
    thread.start()
    try:
        assert ready.wait(20)
        yield box["value"]
    finally:
        over.set()
        thread.join(20)


@contextmanager
def fake_engine() -> Iterator[FakeEngine]:
    """Yield an engine, for whom nothing may be left to answer at the end."""
    engine = FakeEngine()
    with in_thread(lambda: listening(engine.app(), open_socket("127.0.0.1", 0))) as engine.url:
        yield engine
        until(lambda: engine.running == 0)


@contextmanager
def gate_before(engine_url: str, model: str = MODEL, limit: int = 3, **params: Any) -> Iterator[tuple[Gate, str]]:
    """Yield a gate and its URL."""
    engine = Engine(engine_url, model, asks_usage=False)
    gate = Gate(engine, MODEL, limit, GateParams(**params), PrepareParams())

    @asynccontextmanager
    async def served() -> AsyncIterator[str]:
        async with listening(gate.app, open_socket("127.0.0.1", 0)) as url:
            yield url
        await engine.close()

    with in_thread(served) as url:
        yield gate, url


def until(true: Any, limit_s: float = 10) -> None:
    """Wait until `true()` is."""
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def main() -> None:
    """Serve the fake engine on the port that is the only argument."""
    uvicorn.run(FakeEngine().app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
