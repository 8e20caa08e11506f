"""The stack starts once, is found, shows how it is, repairs itself, and ends with nothing left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.api import api_url
from deployments.services.postgres import installed, server_user
from deployments.services.service import LOOPBACK, Service, ServiceError, free_port, healthy, running
from deployments.services.shared_postgres import postgres_keeper
from deployments.stack.health import check
from deployments.stack.pidfile import MARK, only_one
from deployments.stack.stack import (
    be_let_in,
    choose_api,
    running_stack,
    services_file,
    serving,
    stack_environment,
    stack_record,
)
from deployments.stack.supervisor import LEAST_FREE_MIB, Plan, Supervisor
from tasks.base.errors import ConfigError, StorageError
from tasks.base.processes import identity
from tasks.base.servers.alive import pid_file, supervisor
from tasks.base.servers.password import make_password
from tests.deployments.waiting import wait_for

YARD = Path(sys.executable).parent / "yard"
REPLACED = {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME", "TRAINYARD_DATABASE", "CUDA_VISIBLE_DEVICES"}
POSTGRES = bool(installed() and server_user())


def yard(home, *words, **environ):
    env = {name: value for name, value in os.environ.items() if name not in REPLACED}
    env |= {"TRAINYARD_HOME": str(home), "TRAINYARD_LOCK_DIR": str(home / "locks"), "TRAINYARD_SIMULATE_GPUS": "2"}
    command = [str(YARD), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env | environ, timeout=200)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, for what needs no stack."""
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    for name in REPLACED:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def up():
    """The home of a stack in the background, without a worker, on PostgreSQL where there is one."""
    folder = Path(tempfile.mkdtemp(prefix="yard-"))
    folder.chmod(0o755)  # PostgreSQL's user must get in
    ports = ("--prefect-port", free_port(), "--mlflow-port", free_port())
    done = yard(folder, "up", "--detach", "--no-worker", *ports)
    try:
        assert done.returncode == 0, done.stderr
        yield folder, done.stdout
    finally:
        yard(folder, "down", "--now")
        shutil.rmtree(folder)


@pytest.fixture
def stack(up, monkeypatch):
    home, _ = up
    monkeypatch.setenv("TRAINYARD_HOME", str(home))
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    for name in REPLACED - {"PREFECT_HOME"}:
        monkeypatch.delenv(name, raising=False)
    return home


# A stack that is up.


def test_up_shows_devices_and_addresses(up):
    _, said = up
    record_lines = [line for line in said.splitlines() if line.startswith("http://127.0.0.1:")]
    assert [line.partition("  ")[2] for line in record_lines] == ["runs, logs, schedules", "metrics, curves, models"]
    assert "cuda:1  simulated GPU 1, compute 0.0, GPU-simulated-1" in said
    assert "24576 MiB: 0 used, 24576 free; utilisation 0 %" in said
    assert f"database: {'postgres' if POSTGRES else 'sqlite'}; workers: none" in said
    assert "files: TRAINYARD_ALLOWED_ROOTS is unset: runs read and write what this user may" in said
    assert "\naccess: " in said


def test_other_commands_find_it(stack):
    record = stack_record()
    assert running_stack() == {name: record[name] for name in ("prefect", "mlflow")}
    assert stack_environment() == {
        "PREFECT_API_URL": f"{record['prefect']}/api",
        "PREFECT_UI_URL": record["prefect"],
        "MLFLOW_TRACKING_URI": record["mlflow"],
    }
    assert choose_api() is None
    assert os.environ["PREFECT_API_URL"] == f"{record['prefect']}/api"
    assert record["supervisor"] == supervisor()


def test_it_listens_on_this_machine_only(stack):
    for pid in stack_record()["pids"].values():
        listening = {c.laddr.ip for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert listening == {LOOPBACK}


def test_a_second_one_is_refused_with_where_the_first_is(stack):
    for words in ((), ("--password",)):
        done = yard(stack, "up", "--detach", *words)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: the services are up already: {stack_record()['prefect']}, ")
    assert not (stack / "password").exists()


def test_status_says_that_all_is_well(stack):
    done = yard(stack, "status", "--json")
    status = json.loads(done.stdout)
    assert (done.returncode, status["well"], status["faults"]) == (0, True, [])
    assert status["services"]["prefect"]["version"].startswith("3.9.")
    assert status["services"]["mlflow"]["version"].startswith("3.17.")
    assert status["database"]["kind"] == ("postgres" if POSTGRES else "sqlite")
    assert {queue["queue"]: queue["limit"] for queue in status["queues"]}["cuda:1.training"] == 1
    shown = yard(stack, "status")
    assert shown.stdout.splitlines()[-1] == "all is well"


def test_devices_shows_what_waits_for_each(stack):
    api = stack_environment()["PREFECT_API_URL"]
    deployment = httpx.get(f"{api}/deployments/name/train_classifier/stage-train-classifier").json()["id"]
    body = {"parameters": {"dataset": "/data"}, "work_queue_name": "cuda:1.training"}
    run = httpx.post(f"{api}/deployments/{deployment}/create_flow_run", json=body).raise_for_status().json()["id"]
    try:
        shown = {device["device"]: device for device in json.loads(yard(stack, "devices", "--json").stdout)}
        assert set(shown) == {"cuda", "cuda:0", "cuda:1", "cpu"}
        assert shown["cuda:1"]["waiting"] == {"training": 1, "inference": 0}
        assert shown["cuda:1"]["memory_total_mib"] == 24576
        assert f"{'':8}waits   1 training" in yard(stack, "devices").stdout.splitlines()
    finally:
        httpx.delete(f"{api}/flow_runs/{run}").raise_for_status()


def test_killed_services_are_started_again(stack):
    before = stack_record()["pids"]
    if POSTGRES:
        pid_line = (stack / "postgres" / "data" / "postmaster.pid").read_text()
        os.kill(int(pid_line.split()[0]), signal.SIGKILL)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not check().well, 5)
    assert wait_for(lambda: check().well, 60)
    assert not set(before.values()) & set(stack_record()["pids"].values())
    said = (stack / "logs" / "yard.log").read_text()
    assert said.count("was killed by SIGKILL; is started again now; the end of") == 2


def test_down_ends_all_of_it_and_what_it_held_stays(stack):
    pids, environment = [*stack_record()["pids"].values(), stack_record()["supervisor"]], stack_environment()
    done = yard(stack, "down")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all has ended")
    assert done.stdout.count("all has ended") == 1
    assert not [pid for pid in pids if identity(pid)]
    assert not postgres_keeper().alive()
    assert not services_file().exists()
    assert not pid_file().exists()
    assert yard(stack, "down").stdout == "the services are not up: nothing to end\n"
    status = yard(stack, "status")
    assert status.returncode == 1
    assert "fault: the services are not up: `yard up` starts them" in status.stdout
    with pytest.raises(ConfigError, match="found no services up for"):
        stack_environment()
    # A run in this process uses the same database, and has it up for so long.
    from tasks.tracking.mlflow_api import client

    with serving(None):
        assert postgres_keeper().alive() is POSTGRES
        assert client().get_experiment_by_name("Default") is not None
        assert client()._tracking_client.tracking_uri.startswith("postgresql" if POSTGRES else "sqlite")
    assert not postgres_keeper().alive()
    assert environment["MLFLOW_TRACKING_URI"].startswith("http")


# What stands in the way of one.


def test_what_a_killed_supervisor_left_is_put_away_and_said(home):
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: str(home)})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: f"{home}2"})
    said = []
    try:
        pid_file().write_text(json.dumps({"pid": other.pid, "created": "of another process"}))
        services_file().write_text('{"prefect": ')
        with only_one(said.append):
            assert supervisor() == os.getpid()
            assert stack_record() == {}
        assert left.wait() == -signal.SIGKILL
        assert other.poll() is None
    finally:
        left.kill()
        other.kill()
        other.wait()
    number = "a number that another program has now"
    assert said == [
        f"removed a stale {home}/yard.pid of process {other.pid}, {number}",
        "ended 1 processes that a killed stack had left",
    ]
    pid_file().write_text(json.dumps({"pid": other.pid, "created": "of another process"}))
    with only_one(said.append):
        pass
    assert said[-1] == f"removed a stale {home}/yard.pid of process {other.pid}, which is gone"


def test_there_is_one_supervisor_of_a_home(home):
    with only_one(print), pytest.raises(ConfigError, match=f"being started or stopped by process {os.getpid()}"):
        with only_one(print):
            pass


@pytest.mark.parametrize("words", [(), ("--detach",)])
def test_a_taken_port_is_named(home, words):
    import socket

    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = yard(home, "up", *words, "--prefect-port", free_port(), "--mlflow-port", port)
    assert done.returncode == 1
    assert f"error: port {port} is taken, mlflow needs it: choose another one" in done.stderr
    assert not pid_file().exists()
    assert not (home / "postgres").exists()  # looked at before anything is made


def test_one_port_for_both_is_refused(home):
    done = yard(home, "up", "--prefect-port", 4299, "--mlflow-port", 4299)
    assert done.stderr == "error: found port 4299 for both services, need two\n"


@pytest.mark.parametrize(
    ("words", "environ"), [(("--host", "0.0.0.0"), {}), ((), {"MLFLOW_HOST": "0.0.0.0"})], ids=["option", "environment"]
)
def test_other_machines_are_not_listened_to(home, words, environ):
    done = yard(home, "up", *words, **environ)
    assert done.returncode == 1
    assert "0.0.0.0: the services listen on 127.0.0.1 only; from another machine: ssh" in done.stderr
    assert "ssh -L" in done.stderr


def test_a_service_that_does_not_start_shows_why(home):
    (home / "mlflow").mkdir(parents=True)
    (home / "mlflow" / "mlflow.db").write_text("no database" * 100)
    done = yard(home, "up", "--detach", TRAINYARD_DATABASE="sqlite")
    assert done.returncode == 1
    assert "error: cannot read" in done.stderr
    assert "mlflow.db: file is not a database" in done.stderr


def test_a_full_disk_is_said_before_anything_starts(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=False).returncode:
            pytest.skip("no right to mount a small disk")
        monkeypatch.setenv("TRAINYARD_HOME", folder)
        try:
            plan = Plan(free_port(), free_port(), 0)
            with pytest.raises(StorageError, match=rf"disk full: found \d MiB free at {folder}, need {LEAST_FREE_MIB}"):
                Supervisor(plan, print).run(lambda: None)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_file_of_addresses_that_nobody_answers_at_is_no_stack(home):
    url = f"http://{LOOPBACK}:{free_port()}"
    services_file().write_text(json.dumps({"prefect": url, "mlflow": url}))
    assert running_stack() == {}
    (fault, *_) = check().faults
    assert fault == "the process that kept the services up is gone: `yard up` starts them again"


def test_whoever_has_the_port_of_a_stack_that_is_gone_is_no_stack_and_gets_no_password(home, monkeypatch):
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    make_password()
    (home / "api").mkdir()
    (home / "api" / "health").write_text("true")
    port = free_port()
    argv = (sys.executable, "-m", "http.server", "--bind", LOOPBACK, "--directory", str(home), str(port))
    with running(Service("other", argv, port, "/api/health", {})) as other:
        services_file().write_text(json.dumps({"prefect": other.url, "mlflow": other.url}))
        assert running_stack() == {}
        be_let_in(f"{other.url}/api")
        assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_a_server_that_hangs_is_not_said_to_be_down(home, monkeypatch):
    monkeypatch.setattr("deployments.stack.stack._PATIENCE_S", 0.1)
    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
        services_file().write_text(json.dumps({"prefect": url, "mlflow": url}))
        pid_file().write_text(json.dumps({"pid": os.getpid(), "created": identity(os.getpid())}))
        for look in (running_stack, stack_environment, choose_api, api_url):
            with pytest.raises(ServiceError, match=f"Prefect at {url} does not answer, though process {os.getpid()} "):
                look()
        for words in (["runs"], ["submit", "classification", "data=/d"], ["cancel", "x"], ["run", "classification"]):
            done = yard(home, *words)
            assert done.returncode == 1
            assert "does not answer, though" in done.stderr
            assert "yard up" not in done.stderr


@pytest.mark.parametrize(
    "text", ['{"prefect": ', "[]", '{"prefect": 1, "mlflow": 2}', '{"prefect": "x", "mlflow": "x"}']
)
def test_a_damaged_file_of_addresses_is_named(home, text):
    services_file().write_text(text)
    for look in (running_stack, check):
        with pytest.raises(StorageError, match=r"cannot read .*services\.json: need the addresses of the services"):
            look()


# In a terminal.


def test_it_does_not_outlive_a_killed_command(stack):
    yard(stack, "down", "--now")
    ports = free_port(), free_port()
    command = [str(YARD), "up", "--no-worker", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    urls = (f"http://{LOOPBACK}:{ports[0]}/api/health", f"http://{LOOPBACK}:{ports[1]}/health")
    try:
        assert process.stdout is not None
        assert any("Ctrl-C ends all of it" in line for line in iter(process.stdout.readline, ""))
        assert all(healthy(url) for url in urls)
    finally:
        process.kill()
        process.wait()
    assert wait_for(lambda: not any(healthy(url) for url in urls) and not postgres_keeper().alive(), 60)
    # What the killed one left behind does not stand in the way of the next.
    assert services_file().exists()
    assert running_stack() == {}
