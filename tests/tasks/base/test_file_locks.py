"""A lock is held by one process, or shared by those that say so, and free with the death of its holder."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from tasks.base.file_locks import FOREVER, file_lock, lock, try_lock


def test_a_lock_is_held_for_the_block_and_names_its_holder(tmp_path):
    with file_lock(tmp_path / "locks/a", "the run"):
        code = (
            "from pathlib import Path; from tasks.base.file_locks import file_lock\n"
            f"with file_lock(Path({str(tmp_path)!r}, 'locks/a'), 'it'): pass"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"it is held by process {os.getpid()}, which still runs" in other.stderr
    with file_lock(tmp_path / "locks/a", "the run"):
        pass


def test_a_lock_is_free_once_its_holder_was_killed(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from tasks.base.file_locks import file_lock\n"
        f"with file_lock(Path({str(tmp_path / 'a')!r}), 'it'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with file_lock(tmp_path / "a", "it", wait=True):
        pass


@pytest.fixture
def fds(tmp_path):
    """Yield two descriptors of one lock file, opened one by one."""
    found = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield found
    for fd in found:
        os.close(fd)


def test_a_lock_is_shared_by_those_who_say_so_and_else_held_alone(fds):
    one, other = fds
    assert lock(one, shared=True)
    assert lock(other, shared=True)
    assert not lock(other)
    assert lock(other, shared=True)


@pytest.mark.parametrize("wait_s", [20.0, FOREVER])
def test_a_lock_is_waited_for(fds, wait_s):
    one, other = fds
    assert lock(one)
    threading.Timer(0.2, lambda: fcntl.flock(one, fcntl.LOCK_UN)).start()
    assert lock(other, wait_s=wait_s)


def test_a_lock_is_waited_for_no_longer_than_said(fds):
    one, other = fds
    assert lock(one)
    begun = time.monotonic()
    assert not lock(other, wait_s=0.2)
    assert 0.2 <= time.monotonic() - begun < 5


def test_a_held_lock_is_not_had_and_its_copies_hold_it(tmp_path):
    fd = try_lock(tmp_path / "lock")
    assert fd is not None
    copy = os.dup(fd)
    os.close(fd)
    assert try_lock(tmp_path / "lock") is None
    os.close(copy)
    again = try_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)
