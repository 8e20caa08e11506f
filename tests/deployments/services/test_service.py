"""A program beside this one starts, is found, shows its last words, and never outlives who started it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from deployments.services.service import LOOPBACK, Announcing, Service, ServiceError, free_port, healthy, running
from deployments.stack.child import Child
from deployments.stack.drain import drain
from deployments.stack.stack import mlflow_service, prefect_service
from tests.deployments.waiting import wait_for

FILES = (sys.executable, "-m", "http.server", "--bind", LOOPBACK)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    return tmp_path


@contextmanager
def listener():
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        yield taken.getsockname()[1]


def files(port):
    return Service(f"files-{port}", (*FILES, str(port)), port, "/", {})


def python(name, code, line="ready", death_signal="TERM"):
    return Announcing(name, (sys.executable, "-u", "-c", code), {}, line, death_signal)


@pytest.mark.parametrize("make", [lambda port: prefect_service(port, ui=True), mlflow_service, files])
def test_a_taken_port_is_named(make):
    with (
        listener() as port,
        pytest.raises(ServiceError, match=rf"port {port} is taken, \w+-{port} needs it: choose another one"),
        running(make(port)),
    ):
        pass


def test_a_service_that_dies_at_its_start_shows_its_last_words(home):
    code = "import sys\nfor i in range(50): print('line', i, flush=True)\nsys.exit('no such database')"
    port = free_port()
    with pytest.raises(ServiceError) as caught, running(Service("dying", (sys.executable, "-c", code), port, "/", {})):
        pass
    first, *last = str(caught.value).splitlines()
    assert first == f"dying ended with code 1 at its start; the end of {home}/logs/dying.log:"
    assert last[-1] == "no such database"
    assert "line 49" in last
    assert "line 30" not in last


def test_a_program_that_is_not_there_is_said_at_once():
    with (
        pytest.raises(ServiceError, match="ended with code 1 at its start"),
        running(Service("none", ("/nowhere/program",), free_port(), "/", {})),
    ):
        pass


def test_a_service_ends_with_the_block_also_when_the_block_fails():
    service = files(free_port())
    with pytest.raises(ValueError, match="stop"), running(service):
        assert healthy(service.url)
        raise ValueError("stop")
    assert not healthy(service.url)


def test_a_service_ends_when_who_started_it_is_killed():
    port = free_port()
    code = f"""
import time
from deployments.services.service import Service, running
with running(Service("files", {(*FILES, str(port))!r}, {port}, "/", {{}})):
    print("up", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert healthy(f"http://{LOOPBACK}:{port}")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: not healthy(f"http://{LOOPBACK}:{port}"))


def test_services_listen_on_this_machine_only():
    for service in (prefect_service(4200, ui=True), mlflow_service(5000)):
        assert service.argv[service.argv.index("--host") + 1] == LOOPBACK
        assert service.url.startswith(f"http://{LOOPBACK}:")


def test_prefect_keeps_leases_on_disk_streams_logs_and_calls_no_waiting_run_late(monkeypatch):
    from prefect.settings import Settings

    for name, value in prefect_service(4200, ui=True).env.items():
        monkeypatch.setenv(name, value)
    server = Settings().server
    assert server.concurrency.lease_storage == "prefect.server.concurrency.lease_storage.filesystem"
    assert server.logs.stream_out_enabled
    assert server.logs.stream_publishing_enabled
    assert not server.services.late_runs.enabled
    assert not server.analytics_enabled
    assert server.ui.enabled
    assert server.services.event_persister.batch_size == 500
    assert server.services.event_persister.read_batch_size == 100
    assert server.services.triggers.read_batch_size == 100


# A program that is to run for as long as the stack is up.


def test_a_program_works_once_it_has_said_so_in_this_life():
    child = Child(python("slow", "import time; time.sleep(0.5); print('ready'); time.sleep(60)"))
    for _ in range(2):  # the line of the first life does not count for the second
        child.start()
        assert not child.answers()
        assert wait_for(child.answers)
        child.stop()


def test_a_program_that_dies_is_started_again_later_and_later_with_its_last_words():
    child = Child(python("dying", "import time; print('ready'); print('no memory'); raise SystemExit(3)"))
    child.start()
    said = []
    for _ in range(2):
        assert wait_for(lambda: child.code is not None)
        said.append(child.tend())
        child.tend()
    assert said[0].startswith("dying ended with code 3; is started again now; the end of ")
    assert said[0].endswith("no memory")
    assert said[1].startswith("dying ended with code 3; is started again in 1 s")
    assert not child.alive
    assert wait_for(lambda: (child.tend(), child.alive)[1])
    child.stop()


def test_a_program_that_lives_and_answers_no_more_is_killed_and_started_again(home):
    child = Child(files(free_port()), patience_s=4)
    child.start()
    try:
        assert wait_for(child.answers)
        child.tend()
        child.signal(signal.SIGSTOP)
        said, deadline = None, time.monotonic() + 60
        while said is None and time.monotonic() < deadline:
            time.sleep(0.05)
            said = child.tend()
        assert re.fullmatch(r"files-\d+ has not answered for \d+ s; is killed", str(said))
        assert wait_for(lambda: child.code is not None)
        assert "was killed by SIGKILL; is started again now" in str(child.tend())
        assert wait_for(lambda: (child.tend(), child.alive and child.answers())[1])
    finally:
        child.stop()


def test_what_a_killed_program_had_started_ends_with_it(home):
    code = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    child = Child(python("parent", f"{code}; print('ready', p.pid); time.sleep(60)"))
    child.start()
    assert wait_for(child.answers)
    grandchild = int(child.program.log.read_text().split()[1])
    child.signal(signal.SIGKILL)
    assert wait_for(lambda: child.code is not None)
    assert "was killed by SIGKILL" in str(child.tend())
    assert wait_for(lambda: not os.path.exists(f"/proc/{grandchild}"))
    child.stop()


WORKER = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append("drain"))
signal.signal(signal.SIGUSR1, lambda *_: asked.append("now"))
print("ready")
while asked != {end!r}:
    time.sleep(0.02)
"""


def worker(home, end, n_runs):
    child = Child(python("worker", WORKER.format(end=end)))
    child.start()
    assert wait_for(child.answers)
    for n in range(n_runs):
        entry = home / "worker" / "box" / f"{n}.json"
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_text('{"phase": "running"}')
    return {"box": child}


def drained(workers, asked, *later):
    """Return what was said while the workers ended, each later signal coming with the next look."""
    said, ticks, signals = [], [], iter(later)

    def wait(seconds):
        time.sleep(0.05)
        return next(signals, None)

    drain(workers, asked, wait, lambda: ticks.append(0), said.append)
    assert ticks
    return said


def test_a_worker_is_asked_once_to_wait_for_its_runs(home):
    (said,) = drained(worker(home, ["drain"], 2), signal.SIGTERM)
    assert said.startswith("waits for 2 runs to end; `yard down --now`, or Ctrl-C once more")


def test_whoever_is_in_a_hurry_stops_the_runs_at_their_checkpoint(home):
    (said,) = drained(worker(home, ["now"], 1), signal.SIGUSR1)
    assert said.startswith("stops 1 run at the next checkpoint")


def test_the_second_ctrl_c_hurries_and_another_sigterm_does_not(home):
    said = drained(worker(home, ["drain", "now"], 1), signal.SIGINT, signal.SIGTERM, None, signal.SIGINT)
    assert [line.partition(" ")[0] for line in said] == ["waits", "stops"]


def test_the_third_ctrl_c_lets_go_of_the_runs(home):
    workers = worker(home, ["never"], 1)
    said = drained(workers, signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert said[-1] == "leaves 1 run alone; the next worker takes over"
    assert workers["box"].code == -signal.SIGKILL


def test_two_services_are_never_given_the_same_port(monkeypatch):
    numbers = iter([4001, 4001, 4002])

    class Probe(socket.socket):
        def bind(self, address):
            """Take nothing."""

        def getsockname(self):
            return "127.0.0.1", next(numbers)

    monkeypatch.setattr("deployments.services.service.socket.socket", Probe)
    assert [free_port(), free_port()] == [4001, 4002]
