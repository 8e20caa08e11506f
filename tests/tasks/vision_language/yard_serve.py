"""`yard serve` as people start it, for the tests of what talks to it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

YARD = Path(sys.executable).parent / "yard"
ENGINE = f"{sys.executable} -m tests.tasks.vision_language.servers {{port}}"
ROOT = Path(__file__).parents[3]


def environment(home: Path) -> dict[str, str]:
    env = {**os.environ, "TRAINYARD_HOME": str(home), "PYTHONPATH": str(ROOT)}
    env.pop("MLFLOW_TRACKING_URI", None)
    return env


def yard_serve(home: Path, model: Path, *words: str, **settings: str) -> subprocess.Popen:
    command = [str(YARD), "serve", str(model), "--device", "cpu", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**environment(home), **settings}, cwd=home, **pipes)


def address(home: Path, process: subprocess.Popen) -> dict:
    """Return where it answers, once it does."""
    deadline = time.monotonic() + 240
    while not (found := list(home.glob("runs/*/serving/address.json"))):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return json.loads(found[0].read_text())


def ends(pids: list[int], limit_s: float = 20) -> bool:
    deadline = time.monotonic() + limit_s
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, pids))


def make_model(folder: Path) -> Path:
    """Make the tiny model in a new folder, and return it."""
    from tasks.vision_language.tiny_model import make_tiny_model

    folder.mkdir()
    make_tiny_model(folder)
    return folder
