"""The folder mlflow/ holds settings, and does not hide the package of its name."""

import subprocess
import sys
from pathlib import Path

from deployments.stack.stack import mlflow_service

ROOT = Path(__file__).parents[1]


def test_folder_mlflow_holds_no_python():
    assert not list((ROOT / "mlflow").rglob("*.py*"))


def test_no_module_is_called_mlflow():
    packages = ("deployments", "flows", "gpu_pools", "tasks", "tests", "benchmarks")
    assert not [path for name in packages for path in (ROOT / name).rglob("mlflow.py")]


def test_import_from_the_root_finds_the_installed_package():
    code = "import importlib.util as u; print(u.find_spec('mlflow').origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parts[-3:] == ("site-packages", "mlflow", "__init__.py")


def test_server_listens_on_this_machine_only_and_calls_nobody(tmp_path, monkeypatch):
    lines = (ROOT / "mlflow" / "server.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    argv = mlflow_service(5000).argv
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert settings["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
