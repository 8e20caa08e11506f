"""Measures what the gate costs before transformers' server with the tiny model, and what bad requests leave behind.

`python benchmarks/serve.py [--requests 1000]`; the last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.images.params import PrepareParams
from tasks.vision_language.engine_process import command_of, engine_running, free_port
from tasks.vision_language.gate.app import Gate
from tasks.vision_language.gate.engine import Engine
from tasks.vision_language.gate.server import listening, open_socket
from tasks.vision_language.params import GateParams
from tasks.vision_language.tiny_model import make_tiny_model

CHAT = "/v1/chat/completions"
N_TOKENS = 300  # a third of a second, so that a moment of another process does not decide a round
ROUNDS = 15
LIMIT = 3


def body(model: str, n_tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is on the image?"}]}]
    return {"model": model, "messages": messages, "max_tokens": n_tokens, "seed": 0, **more}


async def answer(client: aiohttp.ClientSession, url: str, model: str) -> tuple[float, str]:
    """Return seconds to the first text, and the text."""
    begun, first, texts, finish = time.perf_counter(), 0.0, [], None
    async with client.post(url + CHAT, json=body(model, N_TOKENS, stream=True)) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                finish = choice.get("finish_reason") or finish
                if text := choice["delta"].get("content"):
                    first = first or time.perf_counter() - begun
                    texts.append(text)
    assert finish == "length", f"need {N_TOKENS} tokens of each answer, found an end by {finish}"
    return first, "".join(texts)


@dataclass(frozen=True, slots=True)
class Round:
    """What so many clients at once see of one side."""

    tokens_per_s: float
    first_s: float  # to the first text, the clients' median
    cpu_s: float  # of this process, a request: the client's own, and the gate's where it is asked
    texts: frozenset[str]


async def ask_at_once(client: aiohttp.ClientSession, url: str, model: str, n_clients: int) -> Round:
    begun, before = time.perf_counter(), time.process_time()
    rows = await asyncio.gather(*(answer(client, url, model) for _ in range(n_clients)))
    took_s, cpu_s = time.perf_counter() - begun, time.process_time() - before
    first_s = statistics.median(first for first, _ in rows)
    return Round(n_clients * N_TOKENS / took_s, first_s, cpu_s / n_clients, frozenset(text for _, text in rows))


async def compare(engine: str, model: str, gate: str, n_clients: int) -> dict[str, Any]:
    """Return the gate beside the engine alone: medians of rounds, each of both sides, the first side in turn."""
    sides = {"alone": (engine, model), "through": (gate, "tiny")}
    rounds: list[dict[str, Round]] = []
    # One client for all: what it costs to make one is on neither side.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as client:
        for number in range(ROUNDS + 1):
            order = list(sides) if number % 2 else list(reversed(sides))
            rounds.append({name: await ask_at_once(client, *sides[name], n_clients) for name in order})
    del rounds[0]  # it warms up
    ratio = statistics.median(each["through"].tokens_per_s / each["alone"].tokens_per_s for each in rounds)
    added_s = statistics.median(each["through"].first_s - each["alone"].first_s for each in rounds)
    pace = statistics.median(each["alone"].tokens_per_s for each in rounds)
    cpu_ms = {name: 1000 * statistics.median(each[name].cpu_s for each in rounds) for name in sides}
    same = len({text for each in rounds for side in each.values() for text in side.texts}) == 1
    print(f"{n_clients} clients: {ratio:.3f} of the engine's {pace:.0f} tokens/s, first token {added_s * 1000:+.1f} ms")
    print("  processor time of a request: " + ", ".join(f"{name} {value:.1f} ms" for name, value in cpu_ms.items()))
    return {
        f"ratio_{n_clients}": round(ratio, 3),
        f"added_first_token_ms_{n_clients}": round(added_s * 1000, 1),
        f"added_cpu_ms_{n_clients}": round(cpu_ms["through"] - cpu_ms["alone"], 1),
        f"same_answers_{n_clients}": same,
    }


async def four_at_once(gate: str) -> dict[str, Any]:
    """Ask four at once where three may: who is answered, and how soon the fourth is refused."""
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:

        async def one() -> tuple[int, float]:
            begun = time.perf_counter()
            response = await client.post(gate + CHAT, json=body("tiny", 300))
            return response.status_code, (time.perf_counter() - begun) * 1000

        rows = await asyncio.gather(*(one() for _ in range(LIMIT + 1)))
    refused = [took for status, took in rows if status == 429]
    answered = sum(status == 200 for status, _ in rows)
    return {"answered": answered, "refused": len(refused), "refused_ms": round(max(refused, default=0), 1)}


async def storm(gate: str, n_requests: int) -> None:
    """Send requests of which a third leave at random, run out of time, or are damaged."""
    gone = random.Random(0)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        request, limit_s = body("tiny", 3), 300.0
        if number % 9 == 0:
            request, limit_s = body("tiny", 20_000), gone.uniform(0.01, 1)  # leaves
        elif number % 90 == 3:
            request = body("tiny", 30_000)  # runs out of time
        elif number % 3 == 0:
            part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
            request["messages"] = [{"role": "user", "content": [part]}]
        try:
            await client.post(gate + CHAT, json=request, timeout=httpx.Timeout(limit_s, pool=None))
        except httpx.TimeoutException:
            return

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=8), trust_env=False) as client:
        await asyncio.gather(*(one(client, number) for number in range(n_requests)))


def rss_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


async def engine_rests(pid: int, limit_s: float = 30) -> bool:
    """Return whether the engine's processes come to compute nothing: no generation is left."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        before = sum(sum(process.cpu_times()[:2]) for process in family)
        await asyncio.sleep(1)
        if sum(sum(process.cpu_times()[:2]) for process in family) - before < 0.1:
            return True
    return False


async def measure(engine_url: str, pid: int, model: str, listener: socket.socket, n_requests: int) -> dict[str, Any]:
    params = GateParams()
    gate = Gate(Engine(engine_url, model, asks_usage=False), "tiny", LIMIT, params, PrepareParams())
    async with listening(gate.app, listener) as url:
        found: dict[str, Any] = await four_at_once(url)
        for n_clients in (1, LIMIT):
            found |= await compare(engine_url, model, url, n_clients)
    await gate.engine.close()
    found = {"ratio": min(found["ratio_1"], found[f"ratio_{LIMIT}"]), **found}
    params = GateParams(time_limit_s=2, wait_s=3600)
    gate = Gate(Engine(engine_url, model, asks_usage=False), "tiny", LIMIT, params, PrepareParams())
    async with listening(gate.app, open_socket("127.0.0.1", 0)) as url:
        await storm(url, n_requests // 10)
        before = rss_mib()
        await storm(url, n_requests)
        rests = await engine_rests(pid)
        await gate.engine.close()
        found |= {"requests": n_requests, "generations_left": 0 if rests else 1, "slots_left": LIMIT - gate.slots.taken}
        found |= {"rss_grown_mib": round(rss_mib() - before, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as spool:
        model = Path(folder) / "tiny"
        model.mkdir()
        make_tiny_model(model)
        port = free_port()
        command = command_of("transformers", model, port, on_gpu=False)
        with engine_running(command, port, Path(folder) / "engine.log", 300) as engine:
            tempfile.tempdir = os.environ["TMPDIR"] = spool
            listener = open_socket("127.0.0.1", 0)
            found = asyncio.run(measure(engine.url, engine.process.pid, str(model), listener, args.requests))
        found["files_left"] = len(os.listdir(spool))
        tempfile.tempdir = None
    print(json.dumps(found))


if __name__ == "__main__":
    main()
