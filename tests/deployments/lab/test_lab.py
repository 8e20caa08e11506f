"""A lab of two hosts on loopback: real PostgreSQL, Redis, S3 and Caddy, two API processes, and a worker elsewhere."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
import pytest
import redis

from deployments.services.service import free_port
from tests.deployments.closed_yard import OWN, ROOT, SMALL, write_images
from tests.deployments.lab.servers import BUCKET, KEY, Servers, lab_servers, process
from tests.deployments.waiting import wait_for

HOST = "127.0.0.2"
FILES = ROOT / "deployments" / "lab"


@dataclass(frozen=True)
class Lab:
    """The servers, and the homes of the services' host and of the worker's."""

    servers: Servers
    folder: Path
    prefect: str
    mlflow: str
    restarted: ExitStack
    """Has the servers that a test has started again, until the lab has ended."""

    def status(self, host: str) -> str:
        """Return what `yard status` says on a host, well or not."""
        return self._run(host, ["status"]).stdout

    def yard(self, host: str, *words: object) -> str:
        """Return what a command of `yard` says on a host."""
        done = self._run(host, words)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def _run(self, host: str, words: Iterable[object]) -> "subprocess.CompletedProcess[str]":
        env = {name: value for name, value in os.environ.items() if name not in OWN} | {
            "TRAINYARD_HOME": str(self.folder / host),
            "TRAINYARD_LOCK_DIR": str(self.folder / "locks"),
            "TRAINYARD_SIMULATE_GPUS": "1",
            "HOME": str(self.folder),
        }
        command = [sys.executable, "-m", "deployments.cli.app", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=280)

    def api_processes(self) -> list[psutil.Process]:
        found = []
        for one in psutil.process_iter(["cmdline"]):
            words = one.info["cmdline"] or []
            if "--no-services" in words and "deployments.services.prefect_server" in words:
                if one.environ().get("TRAINYARD_STACK") == str(self.folder / "services") and "python" in words[0]:
                    found.append(one)
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with ExitStack() as stack:
        servers = stack.enter_context(lab_servers())
        restarted = stack.enter_context(ExitStack())
        ports = [free_port() for _ in range(3)]
        first = next(port for port in range(20_000, 30_000, 7) if all(is_free(port + n) for n in (0, 1)))
        subprocess.run(["sh", FILES / "certificates.sh", HOST, folder / "ca"], check=True, capture_output=True)
        shared = f"""
prefect: https://{HOST}:{ports[0]}/api
mlflow: https://{HOST}:{ports[1]}
certificates: ca/ca.pem
"""
        (folder / "lab.yaml").write_text(
            f"""{shared}
auth: auth
database: {{address: "{servers.database.address}", password_file: {servers.database.password_file}}}
redis: {{address: "{servers.redis.address}", password_file: {servers.redis.password_file}}}
files: {{place: {servers.files.place}, endpoint: "{servers.files.endpoint}", key_file: {servers.files.key_file}}}
first_port: {first}
mlflow_port: {ports[2]}
"""
        )
        (folder / "worker.yaml").write_text(f"{shared}auth: copied\nhere: [worker]\n")
        environ = os.environ | {
            "YARD_HOST": HOST,
            "YARD_BIND": HOST,
            "YARD_PORT": str(ports[0]),
            "YARD_MLFLOW_PORT": str(ports[1]),
            "YARD_PREFECT": f"127.0.0.1:{first} 127.0.0.1:{first + 1}",
            "YARD_MLFLOW": f"127.0.0.1:{ports[2]}",
            "YARD_CERT": str(folder / "ca" / "yard.pem"),
            "YARD_KEY": str(folder / "ca" / "yard.key"),
            "XDG_DATA_HOME": str(folder / "caddy"),
            "XDG_CONFIG_HOME": str(folder / "caddy"),
        }
        caddy = ["caddy", "run", "--config", str(FILES / "Caddyfile"), "--adapter", "caddyfile"]
        found = Lab(servers, folder, f"https://{HOST}:{ports[0]}", f"https://{HOST}:{ports[1]}", restarted)
        found.yard("services", "auth", "init", folder / "auth")
        # The other hosts need the passwords alone.
        shutil.copytree(folder / "auth", folder / "copied", ignore=shutil.ignore_patterns("*.ini"))
        for host, file in (("services", "lab.yaml"), ("worker", "worker.yaml")):
            stack.callback(found.yard, host, "down", "--now")
            said = found.yard(host, "up", "--stack", "lab", "--config", folder / file, "--detach")
            assert "works" in said
            if host == "services":  # which need no proxy to start, as the workers do
                stack.enter_context(process(caddy, folder, "caddy", env=environ))
                assert wait_for(lambda: "is well" in found.status("services"), 60)
        yield found


def is_free(port):
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_training_goes_through_all_of_it_while_an_api_process_dies(lab, tmp_path):
    data = write_images(tmp_path / "data")
    assert "all is well" in lab.yard("worker", "status")
    lab.yard("worker", "submit", "classification", f"data={data}", *SMALL, "--device", "cpu", "--name", "through")
    killed = lab.api_processes()[0]
    killed.send_signal(signal.SIGKILL)
    through = {}

    def over():
        rows = json.loads(lab.yard("worker", "runs", "--json"))  # of the process that is left, at once
        through.update(next(row for row in rows if row["name"] == "through"))
        return through["state"] in {"Completed", "Failed", "Crashed", "Cancelled"}

    wait_for(over, 200)
    assert through["state"] == "Completed"
    assert "epoch 1/1" in lab.yard("worker", "logs", through["id"])
    with lab.servers.connect("mlflow") as connection:
        (n_metrics,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
        (where,) = connection.execute("SELECT artifact_uri FROM runs WHERE name = 'through'").fetchone()
    assert n_metrics > 10
    assert where.startswith("mlflow-artifacts:/")
    lab.yard("worker", "download", through["id"], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "best.pt" in names
    store = boto3.client(
        "s3",
        endpoint_url=lab.servers.files.endpoint,
        aws_access_key_id=KEY[0],
        aws_secret_access_key=KEY[1],
        region_name="us-east-1",
    )
    keys = [one["Key"] for one in store.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert names <= {Path(key).name for key in keys}
    assert wait_for(lambda: len(lab.api_processes()) == 2, 60)  # the supervisor has started it again


def test_events_go_through_redis_into_postgres(lab):
    with redis.Redis.from_url(lab.servers.redis.url) as store:
        streams = [key.decode() for key in store.scan_iter(_type="stream")]
    assert any("events" in name for name in streams), streams
    with lab.servers.connect("prefect") as connection:
        asked = "SELECT count(*) FROM events WHERE event = 'prefect.flow-run.Completed'"
        assert wait_for(lambda: connection.execute(asked).fetchone()[0] > 0, 120)


def test_secrets_are_in_no_command_line_and_no_log(lab):
    words = " ".join(" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
    folders = (lab.folder / home / "logs" for home in ("services", "worker"))
    logs = [path.read_text(errors="replace") for folder in folders for path in folder.iterdir()]
    files = (lab.folder / "auth" / name for name in ("password", "mlflow-password"))
    secrets = [path.read_text().strip().partition(":")[2] for path in files]
    for secret in (*secrets, "yard-secret", "redis-secret", KEY[1]):
        assert secret not in words
        assert not [log for log in logs if secret in log]


def test_no_run_fails_while_the_database_is_away(lab, tmp_path):
    """Prefect answered 500 where no connection could be made, and a pipeline asks every second how its stage is."""
    data, cluster = write_images(tmp_path / "data"), lab.servers.folder / "postgres"
    lab.yard("worker", "submit", "classification", f"data={data}", *SMALL, "--device", "cpu", "--name", "away")

    def state():
        rows = json.loads(lab.yard("worker", "runs", "--json"))
        return next(row["state"] for row in rows if (row["name"], row["flow"]) == ("away", "classification"))

    assert wait_for(lambda: state() == "Running", 60)
    pid = int((cluster / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGINT)
    assert wait_for(lambda: not (cluster / "postmaster.pid").exists(), 30)
    time.sleep(5)  # in which the pipeline asks
    said = lab.status("services")
    assert f"fault: PostgreSQL at {lab.servers.database.address} does not answer" in said
    owner = cluster.stat()
    who = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {}
    again = shlex.split((cluster / "postmaster.opts").read_text())
    lab.restarted.enter_context(process(again, lab.servers.folder, "postgres", **who))
    wait_for(lambda: state() in {"Completed", "Failed", "Crashed"}, 200)
    assert state() == "Completed"
    with lab.servers.connect("prefect") as connection:
        counts = connection.execute("SELECT run_count FROM flow_run WHERE name = 'away'").fetchall()
    assert set(counts) == {(1,)}  # it went on, and had not to begin again
    assert "is well" in lab.status("worker")


def test_a_redis_that_forgets_all_stops_neither_schedules_nor_events(lab):
    """What Prefect keeps there of its services is lost: some would wait for ever for what is gone."""
    with redis.Redis.from_url(lab.servers.redis.url) as store:
        pid = store.info("server")["process_id"]
    os.kill(pid, signal.SIGKILL)
    log = lab.folder / "services" / "logs" / "prefect-services.log"
    with process(["redis-server", str(lab.servers.folder / "redis.conf")], lab.servers.folder, "redis"):
        assert wait_for(lambda: "Redis was restarted; begins anew" in log.read_text(errors="replace"), 60)
        data = write_images(lab.folder / "again")
        lab.yard("worker", "schedule", "split_images", f"data={data}", "--every", "17m")
        asked = (
            "SELECT count(*) FROM flow_run JOIN flow ON flow.id = flow_id "
            "WHERE flow.name = 'split_images' AND auto_scheduled"
        )
        with lab.servers.connect("prefect") as connection:
            assert wait_for(lambda: connection.execute(asked).fetchone()[0] > 0, 120)
            (before,) = connection.execute("SELECT count(*) FROM events").fetchone()
            lab.yard("worker", "submit", "split_images", f"data={data}", "--device", "cpu", "--watch")
            more = "SELECT count(*) FROM events"
            assert wait_for(lambda: connection.execute(more).fetchone()[0] > before, 30)
