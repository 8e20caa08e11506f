"""Rates of Prefect's API on PostgreSQL and Redis with 1, 2 and 4 processes, and a queue of ten thousand.

The processes are those of `yard up --stack lab`, asked in turn. The peers are the replaced service's own figures: 20
creations in 0.85 s, 100 reads in 0.32 s. `ratio` is the creations a second of the most processes over those of one.

    python benchmarks/scale.py [--processes 1 2 4] [--requests 200] [--waiting 10000]
"""

import argparse
import asyncio
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from deployments.lab.plan import prefect_programs, prefect_settings
from deployments.services.service import check_start, free_port, spawn, stop
from tests.deployments.lab.servers import Servers, lab_servers

PEER_CREATES_S, PEER_READS_S = 0.85, 0.32
CONCURRENCY = (1, 20, 100)
START_LIMIT_S = 240
QUEUE = "cpu.training"


class Client:
    """Asks the processes in turn, over a connection of each thread to each.

    Args:
        ports: of the processes.
        pids: of them, and last of the one behind them.
    """

    def __init__(self, ports: Sequence[int], pids: Sequence[int]) -> None:
        self.ports, self.pids = ports, pids
        self._ports = itertools.cycle(ports)
        self._turn = threading.Lock()
        self._own = threading.local()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what one of them answers; 503 is asked again."""
        with self._turn:
            port = next(self._ports)
        known = self._own.__dict__.setdefault("connections", {})
        link = known.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=120))
        content = None if body is None else json.dumps(body)
        while True:
            try:
                link.request(method, f"/api{path}", content, {"Content-Type": "application/json"})
                answer = link.getresponse()
                text = answer.read()
            except (ConnectionError, http.client.RemoteDisconnected):  # closed by the server while nobody asked
                link.close()
                continue
            if answer.status < 300:
                return json.loads(text) if text else None
            if answer.status != 503:
                raise RuntimeError(f"{method} {path} answers {answer.status}: {text[:300]!r}")
            time.sleep(0.05)


@contextmanager
def processes(n: int, settings: dict[str, str]) -> Iterator[Client]:
    """Have `n` of Prefect's processes up for the block, and the one behind them."""
    ports = [free_port() for _ in range(n)]
    programs = prefect_programs(ports, "http://127.0.0.1", settings)
    pids: list[int] = []
    with ExitStack() as stack:
        for program in programs:
            process = spawn(program)
            pids.append(process.pid)
            stack.callback(stop, process)
            deadline = time.monotonic() + START_LIMIT_S
            while not program.answers(0):
                check_start(program, process.poll(), deadline)
                time.sleep(0.2)
        yield Client(ports, pids)


def cpu_s(*pids: int) -> float:
    """Return the processor time that processes have taken with their children, also those that have ended, seconds."""
    spent = 0.0
    for pid in pids:
        root = psutil.Process(pid)
        times = root.cpu_times()
        spent += times.user + times.system + times.children_user + times.children_system
        for child in root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, and counts for its parent then
                times = child.cpu_times()
                spent += times.user + times.system
    return spent


def prepare(client: Client) -> str:
    """Return the id of a deployment in a queue that nobody serves."""
    pool = {"name": "gpu", "type": "gpu-process"}
    if not client.ask("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": ["gpu"]}}}):
        client.ask("POST", "/work_pools/", pool)
        client.ask("POST", "/work_pools/gpu/queues", {"name": QUEUE})
    flow = client.ask("POST", "/flows/", {"name": "sleeper"})["id"]
    body = {"name": "bench", "flow_id": flow, "work_pool_name": "gpu", "work_queue_name": QUEUE}
    return str(client.ask("POST", "/deployments/", body | {"enforce_parameter_schema": False})["id"])


def order() -> dict[str, Any]:
    """Return the body of a submission."""
    return {"parameters": {"seconds": 1}, "work_queue_name": QUEUE, "state": {"type": "SCHEDULED"}}


def timed(call: Callable[[Any], object], items: Sequence[Any], n_at_once: int) -> float:
    """Return the seconds for a call on each item, so many at once."""
    with ThreadPoolExecutor(n_at_once) as people:
        begun = time.perf_counter()
        list(people.map(call, items))
        return time.perf_counter() - begun


def rates(client: Client, deployment: str, n_requests: int) -> dict[str, Any]:
    """Return the rates of one number of processes."""
    path = f"/deployments/{deployment}/create_flow_run"
    made: list[str] = []

    def create(_: int) -> None:
        made.append(client.ask("POST", path, order())["id"])

    def read(run: str) -> None:
        client.ask("GET", f"/flow_runs/{run}")

    timed(create, range(40), 20)  # connections, statements and caches are warm
    found: dict[str, Any] = {"creates": {}, "reads": {}}
    for n_at_once in CONCURRENCY:
        found["creates"][n_at_once] = n_requests / timed(create, range(n_requests), n_at_once)
    for n_at_once in CONCURRENCY:
        wanted = (made * 4)[: 2 * n_requests]
        found["reads"][n_at_once] = len(wanted) / timed(read, wanted, n_at_once)
    found["creates_20_s"] = statistics.median(timed(create, range(20), 20) for _ in range(5))
    body = {"flow_runs": {"id": {"any_": made[:100]}}, "limit": 200}
    found["reads_100_s"] = statistics.median(
        timed(lambda _: client.ask("POST", "/flow_runs/filter", body), [0], 1) for _ in range(5)
    )
    found["reads_100_single_s"] = statistics.median(timed(read, made[:100], 20) for _ in range(3))
    bodies = [order() for _ in range(100)]
    n_calls = max(2, n_requests // 50)
    found["bulk_per_s"] = 100 * n_calls / timed(lambda _: client.ask("POST", f"{path}/bulk", bodies), range(n_calls), 4)
    return found


def cost(client: Client, deployment: str, servers: Servers, n: int) -> dict[str, float]:
    """Return what calls cost, each with all that follows from it: statements, rows and bytes of PostgreSQL's log, and
    processor time of the API, of what works behind it, and of PostgreSQL.
    """
    written = (
        "SELECT sum(calls) FROM pg_stat_statements",
        "SELECT sum(rows) FROM pg_stat_statements WHERE query ~* '^\\s*(insert|update|delete)'",
        "SELECT sum(wal_bytes) FROM pg_stat_statements",
    )
    postmaster = int((servers.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    names = ("statements", "rows", "wal_bytes", "api_cpu_ms", "behind_cpu_ms", "postgres_cpu_ms")

    def look() -> list[float]:
        with servers.connect("prefect", user="postgres") as connection:
            found = [float(connection.execute(one).fetchall()[0][0]) for one in written]
        trees = (client.pids[:-1], client.pids[-1:], (postmaster,))
        return [*found, *(1000 * cpu_s(*tree) for tree in trees)]

    def spent(call: Callable[[Any], object], items: Sequence[Any], rest: Sequence[float]) -> list[float]:
        begun, before = time.monotonic(), look()
        timed(call, items, 4)
        time.sleep(12)  # its events are written
        span = time.monotonic() - begun
        return [
            (after - then - idle * span) / len(items) for after, then, idle in zip(look(), before, rest, strict=True)
        ]

    made = [client.ask("POST", f"/deployments/{deployment}/create_flow_run", order())["id"] for _ in range(n)]
    time.sleep(12)
    begun, before = time.monotonic(), look()
    time.sleep(12)
    rest = [(after - then) / (time.monotonic() - begun) for after, then in zip(look(), before, strict=True)]
    path = f"/deployments/{deployment}/create_flow_run"
    nobody = {"flow_runs": {"state": {"type": {"any_": ["CANCELLING"]}}}, "limit": 200}
    parts = {
        "create": spent(lambda _: client.ask("POST", path, order()), range(n), rest),
        "live": spent(lambda run: live(client, run), made, rest),
        "read": spent(lambda run: client.ask("GET", f"/flow_runs/{run}"), made * 4, rest),
        "look": spent(lambda _: client.ask("POST", "/flow_runs/filter", nobody), range(4 * n), rest),
    }
    found = {
        f"{part}_{name}": value for part, values in parts.items() for name, value in zip(names, values, strict=True)
    }
    return found | {f"idle_{name}_per_s": value for name, value in zip(names, rest, strict=True)}


def statements(client: Client, deployment: str, servers: Servers, n: int) -> list[tuple[float, float, str]]:
    """Return what a creation asks of PostgreSQL most often: (calls, milliseconds, statement) for one creation each."""
    most = (
        "SELECT calls, total_exec_time, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements "
        "WHERE calls >= %s ORDER BY calls DESC, total_exec_time DESC LIMIT 25"
    )
    with servers.connect("prefect", user="postgres") as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
        for _ in range(n):
            client.ask("POST", f"/deployments/{deployment}/create_flow_run", order())
        time.sleep(12)
        return [(calls / n, spent / n, str(text)) for calls, spent, text in connection.execute(most, (n,)).fetchall()]


def live(client: Client, run: str) -> None:
    """Let a run go through its states, with thirty lines of log, as a worker and its process do."""
    for kind in ("PENDING", "RUNNING", "COMPLETED"):
        client.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})
    lines = [
        {"name": "bench", "level": 20, "message": "epoch 1/30: loss 0.5", "timestamp": now(), "flow_run_id": run}
        for _ in range(30)
    ]
    client.ask("POST", "/logs/", lines)


def now() -> str:
    """Return the time as Prefect takes it."""
    return datetime.now(UTC).isoformat()


async def followers(ports: Sequence[int], client: Client, n: int, seconds: int) -> list[float]:
    """Return after how many milliseconds lines reach each of `n` who follow logs, at ten lines a second."""
    delays: list[float] = []

    async def follow(port: int, ready: asyncio.Event) -> None:
        async with connect(f"ws://127.0.0.1:{port}/api/logs/out", subprotocols=[Subprotocol("prefect")]) as link:
            await link.send(json.dumps({"type": "auth", "token": None}))
            await link.recv()
            await link.send(json.dumps({"type": "filter", "filter": {"level": {"ge_": 0}}}))
            ready.set()
            async for text in link:
                log = json.loads(text).get("log", {})
                if log.get("name") == "followed":
                    delays.append(1000 * (time.time() - float(log["message"])))

    all_ready = [asyncio.Event() for _ in range(n)]
    tasks = [asyncio.create_task(follow(ports[i % len(ports)], one)) for i, one in enumerate(all_ready)]
    await asyncio.gather(*(one.wait() for one in all_ready))
    await asyncio.sleep(2)
    for _ in range(10 * seconds):
        line = {
            "name": "followed",
            "level": 20,
            "message": str(time.time()),
            "timestamp": now(),
            "flow_run_id": str(uuid4()),
        }
        await asyncio.to_thread(client.ask, "POST", "/logs/", [line])
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return delays


def queue_of(client: Client, deployment: str, servers: Servers, n_waiting: int) -> dict[str, float]:
    """Return the milliseconds of what looks at a long queue, and the bytes that a run takes in the database."""
    path, bodies = f"/deployments/{deployment}/create_flow_run/bulk", [order() for _ in range(100)]
    n_there = client.ask("POST", "/flow_runs/count", {})
    begun, before, n_calls = time.perf_counter(), _size(servers), max(0, n_waiting - n_there) // 100
    timed(lambda _: client.ask("POST", path, bodies), range(n_calls), 4)
    filled = time.perf_counter() - begun
    time.sleep(20)  # its events are written
    grown = (_size(servers) - before) / max(1, 100 * n_calls)
    waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"}
    looks: dict[str, Callable[[Any], object]] = {
        "poll_10k_ms": lambda _: client.ask("POST", "/work_pools/gpu/get_scheduled_flow_runs", {"limit": 200}),
        "list_10k_ms": lambda _: client.ask("POST", "/flow_runs/filter", waiting | {"limit": 200}),
        "page_10k_ms": lambda _: client.ask("POST", "/flow_runs/paginate", waiting | {"limit": 10, "page": 1}),
        "count_10k_ms": lambda _: client.ask("POST", "/flow_runs/count", waiting),
    }
    found = {name: 1000 * statistics.median(timed(look, [0], 1) for _ in range(7)) for name, look in looks.items()}
    return found | {"fill_10k_s": filled, "bytes_per_waiting_run": grown}


def _size(servers: Servers) -> int:
    with servers.connect("prefect", user="postgres") as connection:
        return int(connection.execute("SELECT pg_database_size('prefect')").fetchall()[0][0])


def locks(n_gpus: int) -> float:
    """Return the milliseconds in which a host's devices are looked at, each with four slots that runs hold."""
    code = f"""
import os, time
from deployments.machine.devices import device_views
from gpu_pools.placement.probe import get_probe
from gpu_pools.slots.lease import acquire
from gpu_pools.slots.slot_files import Holder
held = []
for gpu in get_probe().devices():
    for kind, limit in (("training", 1), ("inference", 3)):
        holder = Holder("bench", "bench", "anna@box", "cuda:0", gpu.uuid, kind, -1, os.getpid(), 0.0, None)
        held += [acquire(gpu.uuid, kind, limit, holder) for _ in range(limit)]
assert None not in held and len(held) == 4 * {n_gpus}, len(held)
device_views([], [])
begun = time.perf_counter()
for _ in range(5):
    device_views([], [])
print((time.perf_counter() - begun) * 200)
"""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TRAINYARD_SIMULATE_GPUS": str(n_gpus), "TRAINYARD_LOCK_DIR": folder}
        command = [sys.executable, "-c", code]
        return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


def table(found: dict[int, dict[str, Any]]) -> None:
    """Print the rates of each number of processes."""
    print(f"{'':<44}" + "".join(f"{f'{n} processes':>13}" for n in found) + f"{'replaced':>11}")

    def row(name: str, values: Sequence[float], form: str, peer: str = "") -> None:
        print(f"{name:<44}" + "".join(f"{value:>13{form}}" for value in values) + f"{peer:>11}")

    for what in ("creates", "reads"):
        for n_at_once in CONCURRENCY:
            peer = {"creates": "500", "reads": "1000"}[what] if n_at_once == CONCURRENCY[-1] else ""
            row(f"{what} a second, {n_at_once} at once", [one[what][n_at_once] for one in found.values()], ".0f", peer)
    row("creates a second, 100 in a call", [one["bulk_per_s"] for one in found.values()], ".0f", "500")
    row("20 creates by 20 people, s", [one["creates_20_s"] for one in found.values()], ".2f", f"{PEER_CREATES_S}")
    row("100 statuses in one call, s", [one["reads_100_s"] for one in found.values()], ".3f", f"{PEER_READS_S}")
    row(
        "100 statuses one by one, 20 at once, s",
        [one["reads_100_single_s"] for one in found.values()],
        ".2f",
        f"{PEER_READS_S}",
    )


def main() -> None:
    """Run the parts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--requests", type=int, default=200, help="of each measurement")
    parser.add_argument("--followers", type=int, default=100, help="of live logs")
    parser.add_argument("--waiting", type=int, default=10_000)
    args = parser.parse_args()
    rounds: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, lab_servers(s3=False, statements=True) as servers:
        os.environ |= {"TRAINYARD_HOME": folder, "PREFECT_HOME": f"{folder}/prefect"}
        Path(folder, "prefect").mkdir()
        settings = prefect_settings(servers.database, servers.redis)
        upgrade = ["-m", "deployments.services.prefect_server", "server", "database", "upgrade", "--yes"]
        subprocess.run([sys.executable, *upgrade], env=os.environ | settings, check=True, capture_output=True)
        for n in args.processes:
            with processes(n, settings) as client:
                deployment = prepare(client)
                rounds[n] = rates(client, deployment, args.requests)
                if n == args.processes[0]:
                    spent = cost(client, deployment, servers, args.requests)
                    asked = statements(client, deployment, servers, args.requests)
                if n == args.processes[-1]:
                    delays = asyncio.run(followers(client.ports, client, args.followers, 10))
                    long = queue_of(client, deployment, servers, args.waiting)
    long["locks_64_ms"] = locks(64)
    delays.sort()
    long |= {"follow_p50_ms": delays[len(delays) // 2], "follow_p95_ms": delays[len(delays) * 95 // 100]}
    long["follow_lines_lost"] = args.followers * 100 - len(delays)
    table(rounds)
    print(f"\n{args.waiting} waiting: " + ", ".join(f"{name} {value:.0f}" for name, value in long.items()))
    for part in ("create", "live", "read", "look", "idle"):
        one = {name.removeprefix(f"{part}_"): value for name, value in spent.items() if name.startswith(f"{part}_")}
        print(f"{part} costs: " + ", ".join(f"{name} {value:.1f}" for name, value in one.items()))
    print("\na creation asks PostgreSQL:")
    for calls, taken, text in asked:
        print(f"{calls:>6.1f} x {taken:>6.2f} ms  {text[:110]}")
    best = {n: max(one["creates"].values()) for n, one in rounds.items()}
    figures: dict[str, Any] = {
        "ratio": round(best[args.processes[-1]] / best[args.processes[0]], 3),
        **{f"{name}_{n}": round(one[name], 4) for n, one in rounds.items() for name in ("creates_20_s", "reads_100_s")},
        **{f"creates_per_s_{n}": round(max(one["creates"].values()), 1) for n, one in rounds.items()},
        **{f"bulk_creates_per_s_{n}": round(one["bulk_per_s"], 1) for n, one in rounds.items()},
        **{f"reads_per_s_{n}": round(max(one["reads"].values()), 1) for n, one in rounds.items()},
        **{name: round(value, 1) for name, value in (long | spent).items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
