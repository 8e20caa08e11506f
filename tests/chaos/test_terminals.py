"""A command in a terminal of a real yard that is killed, and what Prefect and MLflow say of it."""

import signal
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from deployments.services.service import free_port
from tests.chaos.yard import ROOT, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(400)]


def test_a_killed_command_is_crashed_in_prefect_and_failed_in_mlflow(tmp_path):
    with yard(tmp_path, free_port()) as made:

        def run():
            found = made.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": ["mine"]}}})
            return found[0] if found else {"state": {"type": ""}, "labels": {}}

        command = [sys.executable, "-m", "deployments.cli.app", "exec", "--device", "cuda:0", "--name", "mine"]
        with subprocess.Popen(
            [*command, "--", sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(600)"],
            env=made.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(signal.SIGKILL)
        made.until(lambda: run()["state"]["type"] == "CRASHED", 90, "the worker says that it is over")
        assert run()["state"]["message"] == "its process is gone: it was killed, or its host went down"
        assert run()["labels"]["trainyard.device"] == "cuda:0"
        client = MlflowClient(made.env["MLFLOW_TRACKING_URI"])
        experiment = client.get_experiment_by_name("programs")
        assert experiment is not None

        def told() -> bool:
            (found,) = client.search_runs([experiment.experiment_id])
            return str(found.info.status) == "FAILED"

        made.until(told, 90, "MLflow is told")
        made.until(lambda: not list(made.home.glob("worker/*/*.json")), 30, "the worker is done with it")
