"""A yard whose servers ask who comes: its own programs get in by the files, people by their accounts, nobody else."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from tests.deployments.closed_yard import ROOT, SMALL, closed_yard, write_images

ANNA = "anna-has-a-long-one"


@pytest.fixture(scope="module")
def closed():
    with closed_yard() as yard:
        yield yard


def asked(url: str, user: str = "") -> int:
    import httpx

    name, _, secret = user.partition(":")
    return httpx.get(url, auth=(name, secret) if name else None).status_code


def test_nobody_gets_in_without(closed):
    assert asked(f"{closed.prefect}/api/admin/version") == 401
    for path in ("/", "/version", "/api/2.0/mlflow/experiments/search?max_results=1", "/get-artifact?path=a"):
        assert asked(closed.mlflow + path) == 401
        assert asked(closed.mlflow + path, "yard:wrong-wrong-wrong") == 401
    assert asked(f"{closed.mlflow}/health") == 200  # says nothing


def test_a_training_through_all_of_it_shows_its_secrets_nowhere(closed, tmp_path):
    data = write_images(tmp_path / "data")
    out = closed.yard("submit", "classification", f"data={data}", *SMALL, "--device", "cpu", "--watch")
    assert "Completed after" in out
    assert "all is well" in closed.yard("status")
    assert "accuracy/test" in closed.yard("history", "--format", "json")
    assert "MLflow has all of it" in closed.yard("sync")
    count = "import os; print(len(os.environ['MLFLOW_TRACKING_PASSWORD']) > 12)"
    assert "True" in closed.yard("exec", "--device", "cpu", "--", sys.executable, "-c", count)
    words = " ".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    database = closed.home / "postgres"
    files = [path for path in closed.home.rglob("*") if path.is_file() and not path.is_relative_to(database)]
    for secret in closed.secrets():
        assert secret not in words
        holding = {path.name for path in files if secret.encode() in path.read_bytes()}
        assert holding <= {"password", "mlflow-password", "mlflow-auth.ini"}


def test_people_have_accounts_of_their_own(closed):
    assert "anna can log in now" in closed.yard("auth", "add", "anna", text=f"{ANNA}\n")
    assert json.loads(closed.yard("auth", "users", "--json")) == [
        {"name": "anna", "admin": False},
        {"name": "yard", "admin": True},
    ]
    assert asked(closed.mlflow, f"anna:{ANNA}") == 200
    closed.yard("auth", "password", "anna", text=f"{ANNA}-2\n")
    assert asked(closed.mlflow, f"anna:{ANNA}") == 401
    assert asked(closed.mlflow, f"anna:{ANNA}-2") == 200
    assert "found a password of 5 characters, need 12" in closed.refused("auth", "add", "ben", text="short\n")
    assert "the yard's own account" in closed.refused("auth", "password", "yard", text=f"{ANNA}\n")
    elsewhere = {"TRAINYARD_HOME": str(closed.home.parent / "annas"), "MLFLOW_TRACKING_URI": closed.mlflow}
    mine = {"MLFLOW_TRACKING_USERNAME": "anna", "MLFLOW_TRACKING_PASSWORD": f"{ANNA}-2"}
    assert "refuses: Permission denied" in closed.refused("auth", "add", "ben", text=f"{ANNA}\n", **elsewhere, **mine)
    assert "refuses: You are not authenticated" in closed.refused("auth", "users", **elsewhere)
    closed.yard("auth", "password", "anna", text=f"{ANNA}-3\n", **elsewhere, **mine)
    assert asked(closed.mlflow, f"anna:{ANNA}-3") == 200
    closed.yard("auth", "remove", "anna")
    assert asked(closed.mlflow, f"anna:{ANNA}-3") == 401
    acts = json.loads(closed.yard("audit", "--format", "json"))
    assert {("add", "done"), ("password", "done"), ("remove", "done")} <= {(one["act"], one["result"]) for one in acts}
    assert ANNA not in json.dumps(acts)


def test_a_new_password_in_the_file_counts_from_the_next_start(closed):
    closed.yard("down", "--now")
    (closed.home / "mlflow-password").write_text("yard:another-long-password\n")
    ports = (closed.prefect.rpartition(":")[2], closed.mlflow.rpartition(":")[2])
    closed.yard("up", "--detach", "--no-worker", "--prefect-port", ports[0], "--mlflow-port", ports[1])
    assert "yard  admin" in closed.yard("auth", "users")
    assert asked(closed.mlflow, "yard:another-long-password") == 200


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("deployments.services.mlflow_server", ("--host", "0.0.0.0", "--port", "1", "--default-artifact-root", "/x")),
        ("deployments.services.prefect_server", ("server", "start", "--host", "0.0.0.0")),
        ("deployments.services.prefect_server", ("server", "start", "--host=0.0.0.0")),
    ],
)
def test_a_server_that_asks_nobody_listens_to_this_machine_alone(tmp_path, module, words):
    environ = {name: value for name, value in os.environ.items() if name != "PREFECT_SERVER_API_AUTH_STRING"}
    environ |= {"TRAINYARD_HOME": str(tmp_path), "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=100, cwd=ROOT)
    assert done.returncode == 1
    assert "which asks nobody who they are: need 127.0.0.1, or a password" in done.stderr
