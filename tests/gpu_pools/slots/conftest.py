"""A folder of locks, and processes that are killed with all that they have started."""

import subprocess
from contextlib import ExitStack

import pytest

from tests.gpu_pools.slots.killing import kill_tree


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder of locks of the test's own."""
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.delenv("TRAINYARD_LEASE", raising=False)
    monkeypatch.delenv("TRAINYARD_LEASE_RUN", raising=False)
    return tmp_path / "locks"


@pytest.fixture
def start():
    """Yield a function that starts a process with pipes; at the end it and all it started are killed."""
    with ExitStack() as stack:

        def call(*argv, **options):
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
            process = stack.enter_context(subprocess.Popen([*map(str, argv)], **pipes, **options))
            stack.callback(kill_tree, process.pid)
            return process

        yield call
