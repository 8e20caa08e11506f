"""Processes are told apart, and found by what they were started with."""

import os
import subprocess
import sys
import time

from tasks.base.processes import has_open, has_variable, identity, others


def test_a_living_process_has_an_identity_of_its_own():
    assert (
        identity(os.getpid()) == identity(os.getpid()) != identity(1) is not None
    )  # a parent may have begun in the same tick
    assert os.getpid() not in set(others())
    assert os.getppid() in set(others())


def test_a_process_that_has_exited_has_none_even_before_it_is_waited_for():
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while identity(process.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert identity(process.pid) is None


def test_a_process_is_found_by_its_variable_and_by_its_open_file(tmp_path):
    path = tmp_path.resolve() / "open"
    code = f"import sys; file = open({str(path)!r}, 'w'); print(1, flush=True); sys.stdin.read()"
    env = {**os.environ, "TRAINYARD_TEST": "here"}
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert has_variable(process.pid, "TRAINYARD_TEST", "here")
        assert not has_variable(process.pid, "TRAINYARD_TEST", "her")
        assert has_open(process.pid, path)
        assert not has_open(process.pid, path.with_name("other"))
        assert process.stdin is not None
        process.stdin.close()
