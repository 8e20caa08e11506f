"""What one worker, and one who follows, asks of Prefect's server in a minute: counted on the way to a real server.

The worker is idle in a yard of one host, then a run waits for a device that is taken, then the worker is idle as one of
a hundred hosts, whose other workers are only heard of. The peer is what it asked before its looks were merged: 186
requests a minute while idle, on two busy cores.

    python benchmarks/server_requests.py [--seconds 60] [--cancels 8]
"""

import argparse
import json
import os
import pty
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_yard import BenchYard, bench_yard

IDLE_BEFORE = 186  # requests a minute
_HOP = {"connection", "keep-alive", "transfer-encoding", "host"}


class Counted(ThreadingHTTPServer):
    """Hands requests on to a server, and counts them by method, path and, of filters, what is asked for."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.to = urlsplit(url)
        self.seen: Counter[str] = Counter()
        self.local = threading.local()

    @property
    def url(self) -> str:
        """The address to be asked instead of the server's."""
        return f"http://127.0.0.1:{self.server_address[1]}{self.to.path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Counted

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen[_kind(self.command, self.path, body)] += 1
        connection = HTTPConnection(self.server.to.hostname or "", self.server.to.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _hand_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _kind(method: str, path: str, body: bytes) -> str:
    parts = [part if len(part) < 36 else "ID" for part in path.partition("?")[0].split("/")]
    asked = ""
    if path.endswith("flow_runs/filter"):
        wanted = json.loads(body).get("flow_runs") or {}
        types = (wanted.get("state") or {}).get("type", {}).get("any_", [])
        asked = " " + ",".join([*sorted(types), *sorted(wanted.keys() - {"state"})])
    return f"{method} {'/'.join(parts[2:])}{asked}"


@contextmanager
def counted_worker(yard: BenchYard, server: Counted) -> Iterator[subprocess.Popen[bytes]]:
    """Run one more worker of the yard, whose requests are counted, for the block."""
    env = {**os.environ, **yard.env, "PREFECT_API_URL": server.url}
    command = [sys.executable, "-m", "gpu_pools.worker.serve", "--name", "counted"]
    with (yard.home / "counted.log").open("wb") as log:
        worker = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        while "serves" not in (yard.home / "counted.log").read_text():
            time.sleep(0.2)
        yield worker
    finally:
        worker.terminate()
        worker.wait(60)


def per_minute(server: Counted, seconds: float) -> Counter[str]:
    """Return the requests of a minute, by kind."""
    server.seen.clear()
    time.sleep(seconds)
    return Counter({kind: round(60 * n / seconds) for kind, n in server.seen.items()})


def show(title: str, found: Counter[str]) -> int:
    """Print the kinds, the most frequent first; return how many requests there were."""
    print(f"\n{title}: {sum(found.values())} requests a minute")
    for kind, n in found.most_common(12):
        print(f"{n:>6}  {kind}")
    return sum(found.values())


def cancels(yard: BenchYard, n: int) -> list[float]:
    """Return the seconds from the request to cancel a run that computes until its worker asks it to end."""
    found: list[float] = []
    own = {"deployments": {"id": {"any_": [yard.deployment]}}}
    for live in yard.post("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, **own}):
        cancelled(yard, live["id"])
    for _ in range(n):
        run = yard.submit(60)
        while state(yard, run) != "RUNNING":
            time.sleep(0.1)
        time.sleep(1 + 0.37 * len(found) % 1)
        found.append(cancelled(yard, run))
    return found


def state(yard: BenchYard, run: str) -> str:
    """Return the type of state of a run."""
    return str(yard.http.get(f"/flow_runs/{run}").json()["state_type"])


def cancelled(yard: BenchYard, run: str) -> float:
    """Cancel a run; return after how many seconds a worker has asked it to end, as its log says."""
    logs = [*yard.home.glob("logs/worker-*.log"), yard.home / "counted.log"]
    begun, asked = time.monotonic(), f"run {run} is asked to end"
    yard.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    while not any(asked in log.read_text() for log in logs if log.exists()) and time.monotonic() - begun < 60:
        time.sleep(0.02)
    return time.monotonic() - begun


def crowd(yard: BenchYard, n: int) -> None:
    """Let the server have heard of workers of so many other hosts."""
    for number in range(n):
        yard.post("/work_pools/gpu/workers/heartbeat", {"name": f"host{number}", "heartbeat_interval_seconds": 600})


def follow(yard: BenchYard, server: Counted, seconds: float, n: int) -> Counter[str]:
    """Return what so many `yard top` of one home ask in a minute."""
    env = {**os.environ, **yard.env, "PREFECT_API_URL": server.url, "TERM": "xterm"}
    followers = []
    for _ in range(n):
        screen, terminal = pty.openpty()
        threading.Thread(target=drain, args=(screen,), daemon=True).start()
        command = [sys.executable, "-m", "deployments.cli.app", "top"]
        followers.append(subprocess.Popen(command, env=env, stdin=terminal, stdout=terminal, stderr=terminal))
    time.sleep(5 + 3 * n)
    try:
        return per_minute(server, seconds)
    finally:
        for follower in followers:
            follower.terminate()
            follower.wait()


def drain(screen: int) -> None:
    """Read what is drawn, so that who draws does not wait."""
    while os.read(screen, 65_536):
        pass


def main() -> None:
    """Count, print the tables and the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cancels", type=int, default=8)
    args = parser.parse_args()
    figures: dict[str, float] = {}
    with bench_yard() as yard:
        server = Counted(yard.api)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with counted_worker(yard, server):
            time.sleep(25)
            figures["idle_per_min"] = show("an idle worker", per_minute(server, args.seconds))
            yard.submit(args.seconds + 60)
            yard.submit(0)
            time.sleep(5)
            figures["waiting_per_min"] = show("a run waits", per_minute(server, args.seconds))
            figures["cancel_median_s"] = round(statistics.median(cancels(yard, args.cancels)), 2)
            print(f"\nfrom a cancel to the request to the run: {figures['cancel_median_s']} s")
            crowd(yard, 99)
            time.sleep(35)  # a worker reads every half minute who is there
            figures["idle_of_100_per_min"] = show("one of 100 hosts, idle", per_minute(server, args.seconds))
        for n in (1, 5):
            figures[f"top_{n}_per_min"] = show(f"yard top, {n} at once", follow(yard, server, args.seconds, n))
    print(json.dumps({"ratio": round(figures["idle_per_min"] / IDLE_BEFORE, 2), **figures}))


if __name__ == "__main__":
    main()
