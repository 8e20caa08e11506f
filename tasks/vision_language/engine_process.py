"""Starts the engine as a child of the run, and ends it with all that it started."""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from gpu_pools.stopping import pause
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.processes import end_child
from tasks.base.servers.guard import listed
from tasks.base.startup import module_command
from tasks.base.workspace import storage_errors

ENGINES = "TRAINYARD_ENGINES"
"""Engines beside transformers and vllm that runs from the queue may start, as they write them, separated by commas."""

LOOPBACK = "127.0.0.1"
_END_S = 15
_LOOK_EVERY_S = 0.2
_TAIL_BYTES = 4000
# Nothing is fetched, and nobody is told.
_SETTINGS = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}


class EngineError(TrainyardError):
    """The engine does not start, or has ended."""


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that answers.

    Args:
        url: where it is.
        process: that ends with it.
        log: file of what it prints.
    """

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def check(self) -> None:
        """Look whether it lives.

        Raises:
            EngineError: it has ended.
        """
        if (code := self.process.poll()) is not None:
            raise EngineError(f"the engine ended with code {code}; the end of {self.log}:\n{_tail(self.log)}")


def check_engine(engine: str, *, queued: bool) -> None:
    """Refuse a command that a run from the queue may not start: whoever reaches the server can write one.

    Args:
        engine: as the parameters have it.
        queued: the run is from the queue, not of a person's own process.

    Raises:
        ConfigError: it may not.
    """
    known = {"transformers", "vllm", *listed(ENGINES)}
    if queued and engine not in known:
        raise ConfigError(f"found the engine {engine!r}, need one of {', '.join(sorted(known))} ({ENGINES} adds more)")


def command_of(engine: str, folder: Path, port: int, *, on_gpu: bool) -> list[str]:
    """Return the command that serves a model on a port of this machine.

    Args:
        engine: transformers, vllm or a path of one, or a command with {model}, {host} and {port}.
        folder: of the model.
        port: that it listens on.
        on_gpu: the process sees one GPU.

    Raises:
        ConfigError: the command cannot be read.
    """
    place = ["--host", LOOPBACK, "--port", str(port)]
    if engine == "transformers":
        script = str(Path(sys.executable).parent / "transformers")
        return [script, "serve", str(folder), *place, "--device", "cuda" if on_gpu else "cpu"]
    if is_vllm(engine):
        return [engine, "serve", str(folder), *place]
    try:
        words = shlex.split(engine)
    except ValueError as exc:
        raise ConfigError(f"found the engine {engine!r}, need a command ({exc})") from exc
    names = {"{model}": str(folder), "{host}": LOOPBACK, "{port}": str(port)}
    if not any("{port}" in word for word in words):
        raise ConfigError(f"found the engine {engine!r}, need transformers, vllm, or a command with {{port}} in it")
    for name, value in names.items():
        words = [word.replace(name, value) for word in words]
    return words


def is_vllm(engine: str) -> bool:
    """Return whether an engine is vLLM's command."""
    return Path(engine).name == "vllm"


@contextmanager
def engine_running(command: list[str], port: int, log: Path, limit_s: float) -> Iterator[Running]:
    """Run an engine for the block, from when it answers; it ends with the block, and with this process.

    Args:
        command: of it.
        port: it listens on.
        log: file of what it prints.
        limit_s: for its start.

    Raises:
        EngineError: it ends, or is not ready in time; with the end of its log.
        Interrupted: a signal has come.
    """
    with storage_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                module_command("gpu_pools.process.tether", *command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_SETTINGS},
                start_new_session=True,  # Ctrl-C is for the run, which ends this
            )
    running = Running(f"http://{LOOPBACK}:{port}", process, log)
    try:
        _await(running, limit_s)
        yield running
    finally:
        end_child(process, _END_S)


def _await(running: Running, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not _healthy(running.url):
        running.check()
        if time.monotonic() > deadline:
            raise EngineError(
                f"the engine is not ready after {limit_s:g} s; the end of {running.log}:\n{_tail(running.log)}"
            )
        pause(_LOOK_EVERY_S)


def _healthy(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/health", timeout=2, trust_env=False)
        if answer.status_code == 404:
            answer = httpx.get(f"{url}/v1/models", timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def model_name(engine: str, folder: Path, url: str) -> str:
    """Return what an engine calls its model.

    Raises:
        EngineError: it does not say.
    """
    if engine == "transformers" or is_vllm(engine):
        return str(folder)
    try:
        return str(httpx.get(f"{url}/v1/models", timeout=10, trust_env=False).json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as exc:
        raise EngineError(f"the engine does not say what its model is called, at {url}/v1/models: {exc}") from exc


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-12:])
