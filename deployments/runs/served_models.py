"""Finds the models that runs of this home serve on this machine, and serves one for a talk."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import psutil

from gpu_pools.names import host_name, is_id, short_id
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.processes import end_child
from tasks.base.startup import module_command
from tasks.base.workspace import home
from tasks.vision_language.address import ADDRESS, Address, read_address
from tasks.vision_language.token_file import read_token

_ANSWER_S = 5.0
_LOOK_EVERY_S = 0.2
_END_S = 30.0
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Served:
    """A model that answers.

    Args:
        run_id: that serves it.
        address: where.
    """

    run_id: str
    address: Address

    def is_called(self, wanted: str) -> bool:
        """Return whether it is meant by a name, or by an id or a part of it."""
        return wanted in {self.address.run, self.address.model} or is_id(self.run_id, wanted)

    def __str__(self) -> str:
        return f"{short_id(self.run_id)} ({self.address.model} at {self.address.url})"


def served_models() -> list[Served]:
    """Return what is served from this home on this machine and answers."""
    files = sorted((home() / "runs").glob(f"*/serving/{ADDRESS}"))
    found = [Served(file.parent.parent.name, address) for file in files if (address := read_address(file))]
    return [served for served in found if _answers(served.address)]


def _answers(address: Address) -> bool:
    """Return whether a run is there still: one that was killed leaves its file."""
    if address.host != host_name() or not psutil.pid_exists(address.pid):
        return False
    try:
        httpx.get(f"{address.url}/health", timeout=_ANSWER_S, trust_env=False)
    except httpx.HTTPError:
        return False
    return True


def find_served(wanted: str | None) -> Served:
    """Return the served model that is meant.

    Args:
        wanted: the run's id or the beginning of it, its name, or that of its model; None: the only one.

    Raises:
        ConfigError: none, or several.
    """
    every = served_models()
    found = [one for one in every if wanted is None or one.is_called(wanted)]
    if len(found) == 1:
        return found[0]
    have = f"have {', '.join(map(str, every))}" if every else f"none is served on this machine from {home()}"
    if not found:
        what = f"found no served model {wanted!r}" if wanted else "found no served model"
        raise ConfigError(f"{what}, {have}: `yard serve FOLDER` serves one")
    raise ConfigError(f"found {len(found)} served models, need one by its run: {have}")


def token_of(served: Served) -> str:
    """Return the token that a model's gate asks for; empty: none.

    Raises:
        ConfigError: its file cannot be used.
    """
    return read_token(Path(served.address.token_file)) if served.address.token_file else ""


def set_requests_at_once(served: Served, limit: int) -> int:
    """Set how many requests a served model answers at once; return how many it did before.

    Raises:
        ConfigError: it refuses, or has ended.
    """
    token = token_of(served)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.put(
            f"{served.address.url}/limit", content=str(limit), headers=headers, timeout=_ANSWER_S, trust_env=False
        )
        if answer.status_code != 200:
            raise ConfigError(f"{served} refuses {limit}: {answer.json()['error']['message']}")
        return int(answer.json()["was"])
    except (httpx.HTTPError, ValueError, LookupError) as exc:
        raise ConfigError(f"{served} does not answer ({exc})") from exc


@contextmanager
def serving_here(model: Path, device: str, port: int) -> Iterator[str]:
    """Run `yard serve` for the block, from when it answers; yield its URL. It ends with the block and this process.

    Args:
        model: folder of the model.
        device: of the slot.
        port: that is free.

    Raises:
        TrainyardError: it does not start, with the end of what it said.
    """
    options = ["--device", device, "--port", str(port), "--idle", "none"]
    words = [sys.executable, "-P", "-m", "deployments.cli.app", "serve", str(model.absolute()), *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            module_command("gpu_pools.process.parent_death", *words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the answer
        )
        try:
            yield _started(process, f"http://127.0.0.1:{port}", log)
        finally:
            end_child(process, _END_S)


def _started(process: "subprocess.Popen[bytes]", url: str, log: IO[bytes]) -> str:
    while True:
        if process.poll() is not None:
            log.seek(0)
            last = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
            raise TrainyardError("\n".join(["the model could not be served; what was said last:", *last]))
        try:
            if httpx.get(f"{url}/health", timeout=_ANSWER_S, trust_env=False).status_code == 200:
                return url
        except httpx.HTTPError:
            pass  # not yet
        time.sleep(_LOOK_EVERY_S)
