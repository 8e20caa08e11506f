"""Serves the metrics of a worker to Prometheus, on this machine alone: http://127.0.0.1:PORT/metrics."""

import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from gpu_pools.placement.probe import Probe
from gpu_pools.watching.backlog import BacklogReader
from gpu_pools.watching.collector import YardCollector
from gpu_pools.watching.state import WorkerState
from tasks.base.errors import ConfigError
from tasks.base.servers.guard import HOSTS, ORIGINS, Guard, listed

logger = logging.getLogger("trainyard.worker")

PORT = "TRAINYARD_METRICS_PORT"
"""Where a host's first worker serves its metrics, the second one behind it, and so on; unset: nowhere."""

_LOOPBACK = "127.0.0.1"
_LAST_PORT = 65535
_AGAIN_S = 30.0  # a port that another program has may become free
_AT_ONCE = 8  # requests; who opens more is sent away
_PATIENCE_S = 5.0  # with a client that says nothing


def metrics_port(worker: str) -> int | None:
    """Return the port of a worker, None where no metrics are wanted.

    Args:
        worker: its name; that of the second worker of boxa is boxa/2.

    Raises:
        ConfigError: the setting is no port.
    """
    text = os.environ.get(PORT, "").strip()
    if not text:
        return None
    number = worker.rpartition("/")[2]
    port = int(text) + (int(number) - 1 if "/" in worker and number.isdecimal() else 0) if text.isdecimal() else 0
    if not 0 < port <= _LAST_PORT:
        raise ConfigError(f"found {PORT}={text!r}, need a port, 1 to {_LAST_PORT}, such as 9469; unset: no metrics")
    return port


class Exporter:
    """Serves what the worker has published last, in threads of its own.

    A port that is taken ends no worker: it says so, and tries again.

    Args:
        port: of this machine.
        probe: of the GPUs; one of its own.
    """

    def __init__(self, port: int, probe: Probe) -> None:
        self._port = port
        self._state: WorkerState | None = None
        self._backlog = BacklogReader()
        self._registry = CollectorRegistry()
        self._registry.register(YardCollector(lambda: self._state, lambda: self._backlog.last, probe))
        self._stop = threading.Event()
        self._server: _Server | None = None
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._backlog.start()
        self._thread.start()

    def publish(self, state: WorkerState) -> None:
        """Let those who ask from now on have this."""
        self._state = state

    def close(self) -> None:
        """Serve no more."""
        self._stop.set()
        self._backlog.close()
        if self._server is not None:
            self._server.shutdown()

    def _serve(self) -> None:
        told = False
        while not self._stop.is_set():
            try:
                self._server = _Server(self._port, self._registry)
            except OSError as exc:
                if not told:
                    logger.error("no metrics at %s:%d yet: %s (%s)", _LOOPBACK, self._port, exc.strerror, PORT)
                told = True
                self._stop.wait(_AGAIN_S)
                continue
            logger.info("metrics at http://%s:%d/metrics", _LOOPBACK, self._port)
            with self._server as server:
                server.serve_forever()


class _Server(ThreadingHTTPServer):
    """Answers a few requests at once, each in a thread; those beyond are closed unanswered."""

    daemon_threads = True

    def __init__(self, port: int, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.guard = Guard(_no_app, listed(HOSTS), listed(ORIGINS))
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__((_LOOPBACK, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers.keys()}
        if fault := self.server.guard.fault("GET", headers):
            self._answer(403, f"refused: {fault}\n".encode())
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(404, b"found no such page, need /metrics\n")
        else:
            self._answer(200, generate_latest(self.server.registry), CONTENT_TYPE_LATEST)

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client is gone

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of a scrape every few seconds."""


async def _no_app(*_: Any) -> None:
    raise NotImplementedError("the guard is asked for its judgement alone")
