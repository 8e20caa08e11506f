"""Homes of a yard for tests of commands that need no server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def home_without_server(folder: Path, **more: object) -> Iterator[pytest.MonkeyPatch]:
    """Let commands of a block stand in a home of their own, `folder/home`, on a host with two simulated GPUs.

    Args:
        folder: empty.
        more: further environment variables.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CUDA_VISIBLE_DEVICES", "PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("TRAINYARD_HOME", str(folder / "home"))
        patch.setenv("TRAINYARD_LOCK_DIR", str(folder / "locks"))
        patch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
        for name, value in more.items():
            patch.setenv(name, str(value))
        yield patch
