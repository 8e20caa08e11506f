"""The local services start, are found, and never outlive who started them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.stack import (
    LOOPBACK,
    Service,
    ServiceError,
    free_port,
    healthy,
    mlflow_service,
    prefect_service,
    running,
    running_stack,
    services_file,
)
from tasks.errors import StorageError

YARD = Path(sys.executable).parent / "yard"
FILES = (sys.executable, "-m", "http.server", "--bind", LOOPBACK)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    (tmp_path / "mlflow" / "artifacts").mkdir(parents=True)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextmanager
def listener():
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        yield taken.getsockname()[1]


def files(port):
    return Service(f"files-{port}", (*FILES, str(port)), port, "/", {})


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_the_services_do_not_outlive_a_killed_command(home):
    ports = free_port(), free_port()
    command = [str(YARD), "up", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    urls = (f"http://{LOOPBACK}:{ports[0]}/api/health", f"http://{LOOPBACK}:{ports[1]}/health")
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert [line.split()[0] for line in said[:2]] == [f"http://{LOOPBACK}:{port}" for port in ports]
        assert "Ctrl-C" in said[2]
        assert all(healthy(url) for url in urls)
        assert list(running_stack().values()) == [f"http://{LOOPBACK}:{port}" for port in ports]
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert again.stderr.startswith("error: the services are up already: ")
    finally:
        process.kill()
        process.wait()
    assert wait_for(lambda: not any(healthy(url) for url in urls))
    # What the killed one left behind does not stand in the way of the next.
    assert services_file().exists()
    assert running_stack() == {}


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
from deployments.stack import Service, running
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


def test_a_file_of_addresses_that_nobody_answers_at_is_no_stack():
    services_file().write_text(json.dumps({"prefect": f"http://{LOOPBACK}:{free_port()}", "mlflow": "x"}))
    assert running_stack() == {}


def test_a_damaged_file_of_addresses_is_named():
    services_file().write_text('{"prefect": ')
    with pytest.raises(StorageError, match=r"cannot read .*services\.json: need the addresses of the services"):
        running_stack()


def test_services_listen_on_this_machine_only():
    for service in (prefect_service(4200, ui=True), mlflow_service(5000)):
        assert service.argv[service.argv.index("--host") + 1] == LOOPBACK
        assert service.url.startswith(f"http://{LOOPBACK}:")
