"""A whole yard whose servers ask who comes, for tests that come as people do: by the command `yard`."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deployments.services.service import free_port

COMMAND = (sys.executable, "-m", "deployments.cli.app")
ROOT = Path(__file__).parents[2]
OWN = {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME", "TRAINYARD_DATABASE", "CUDA_VISIBLE_DEVICES"}
SMALL = ("train.num_epochs=1", "train.model=mobilenet_v3_small", "train.pretrained=false", "augment.methods=[]")


@dataclass(frozen=True)
class Closed:
    """A yard that asks; its home, and the environment of who has it."""

    home: Path
    environ: dict[str, str]
    mlflow: str
    prefect: str

    def yard(self, *words: object, text: str = "", **environ: str) -> str:
        command = [*COMMAND, *map(str, words)]
        env = self.environ | environ
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=env, timeout=250)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def refused(self, *words: object, text: str = "", **environ: str) -> str:
        command, env = [*COMMAND, *map(str, words)], self.environ | environ
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=env, timeout=250)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def secrets(self) -> list[str]:
        names = ("password", "mlflow-password")
        key = (self.home / "mlflow-auth.ini").read_text().partition("secret_key = ")[2].strip()
        return [*((self.home / name).read_text().strip().partition(":")[2] for name in names), key]


@contextmanager
def closed_yard(**more: str) -> Iterator[Closed]:
    """Have a stack with a worker in the background for the block, of a home with both passwords.

    Args:
        more: further environment variables.
    """
    folder = Path(tempfile.mkdtemp(prefix="yard-closed-"))
    folder.chmod(0o755)  # PostgreSQL's user must get in
    environ = {name: value for name, value in os.environ.items() if name not in OWN} | {
        "TRAINYARD_HOME": str(folder / "home"),
        "TRAINYARD_LOCK_DIR": str(folder / "locks"),
        "TRAINYARD_SIMULATE_GPUS": "1",
        "HOME": str(folder),
        **more,
    }
    prefect, mlflow = free_port(), free_port()
    yard = Closed(folder / "home", environ, f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{prefect}")
    try:
        yard.yard("auth", "init")
        said = yard.yard("up", "--detach", "--prefect-port", prefect, "--mlflow-port", mlflow)
        assert "MLflow for an account" in said
        yield yard
    finally:
        subprocess.run([*COMMAND, "down", "--now"], env=environ, check=False, capture_output=True)
        shutil.rmtree(folder)


def write_images(folder: Path) -> Path:
    numbers = np.random.default_rng(0)
    for name, level in {"calm": 60, "loud": 180}.items():
        (folder / name).mkdir(parents=True)
        for n in range(8):
            pixels = numbers.integers(0, 50, (32, 32, 3)) + level
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{n}.png")
    return folder
