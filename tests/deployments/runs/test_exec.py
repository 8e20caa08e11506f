"""A person's own command has a slot, its own environment and an MLflow run; however it ends, the slot is free."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpu_pools.slots.lease import Holder, acquire, holders
from gpu_pools.slots.waiters import waiting_elsewhere
from tests.deployments.homes import home_without_server

BIN = Path(sys.executable).parent
PAGE = Path(__file__).parents[3] / "docs" / "sharing.md"
PROBE = """
import json, os, sys
print(json.dumps({"cwd": os.getcwd(), **os.environ}))
print("warning", file=sys.stderr)
sys.exit(int(sys.argv[-1]))
"""
SLEEPS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home without a server, on a host with two GPUs."""
    folder = tmp_path_factory.mktemp("exec")
    with home_without_server(folder):
        yield folder


def started(folder, *words, device="cuda:1", **options):
    command = [BIN / "yard", "exec", "--device", device, *options.pop("flags", ()), "--", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def mlflow_run(home):
    client = MlflowClient(f"sqlite:///{home}/home/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("programs")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]


def yard(*words) -> str:
    return subprocess.run([BIN / "yard", *words], capture_output=True, text=True, check=True).stdout


def test_a_command_sees_its_gpu_and_its_mlflow_run_and_hands_on_its_exit_code(home):
    run = started(home, sys.executable, "-c", PROBE, "--api-token", "s3cret", "3", flags=("--name", "mine"))
    out, err = run.communicate(timeout=300)
    assert run.returncode == 3, err
    seen = json.loads(out)  # nothing else is on its standard output
    assert seen["cwd"] == str(home)
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-simulated-1"
    assert "PREFECT_HOME" not in seen  # the caller's environment, not ours
    assert seen["MLFLOW_EXPERIMENT_NAME"] == "programs"
    assert "warning" in err.splitlines()
    found = mlflow_run(home)
    assert (found.info.run_id, found.info.status, found.info.run_name) == (seen["MLFLOW_RUN_ID"], "FAILED", "mine")
    assert "--api-token '***' 3" in found.data.tags["command"]
    (row,) = json.loads(yard("runs", "--limit", "1", "--json"))
    assert (row["name"], row["state"], row["message"]) == ("mine", "Failed", "exit code 3")
    assert "warning" in yard("logs", "mine")
    assert "s3cret" not in json.dumps(found.to_dictionary()) + yard("show", "mine", "--json")


def test_a_command_may_have_several_gpus_of_which_it_names_none(home):
    run = started(home, sys.executable, "-c", PROBE, "0", device="cuda", flags=("-n", "2"))
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    seen = json.loads(out)
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["TRAINYARD_ON"]) == ("GPU-simulated-0,GPU-simulated-1", "cuda:0,cuda:1")
    assert holders() == []
    run = started(home, "true", flags=("-n", "2"))
    assert "found program.device=cuda:1 with program.n_devices=2, need cuda, or HOST/cuda" in run.communicate()[1]
    assert run.returncode == 1


def test_the_example_of_the_page_fills_its_mlflow_run(home):
    script, command = re.search(r"```python\n(.*?)```.*?^    yard exec (.*?)$", PAGE.read_text(), re.S | re.M).groups()
    (home / "my_train.py").write_text(script)
    words = command.replace("--device cuda", "--device cpu").replace("python ", f"{sys.executable} ").split()
    done = subprocess.run([BIN / "yard", "exec", *words], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = mlflow_run(home)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "my_train.py"
    assert found.data.metrics["loss"] < 1.0
    assert found.data.params["lr"] == "0.1"


@pytest.mark.parametrize(
    ("how", "state", "code"),
    [
        (signal.SIGINT, "KILLED", 130),
        (signal.SIGHUP, "KILLED", 129),
        (signal.SIGTERM, "KILLED", 143),
        (signal.SIGKILL, "RUNNING", -9),
    ],
)
def test_however_it_ends_the_slot_is_free_and_nothing_is_left(home, how, state, code):
    run = started(home, sys.executable, "-c", SLEEPS)
    child = int(run.stdout.readline())
    assert [holder.device for holder in holders()] == ["cuda:1"]
    run.send_signal(how)
    run.communicate(timeout=120)
    assert run.returncode == code
    deadline = time.monotonic() + 20
    while (holders() or os.path.exists(f"/proc/{child}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert holders() == []
    assert not os.path.exists(f"/proc/{child}")
    assert mlflow_run(home).info.status == state


def test_a_taken_device_is_refused_with_who_has_it(home):
    holder = Holder("r", "other", "anna@boxa", "cuda:1", "GPU-simulated-1", "training", -1, os.getpid(), 0.0, None)
    with acquire("GPU-simulated-1", "training", 1, holder):
        run = started(home, "true", flags=("--when-busy", "refuse"))
        _, err = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "cuda:1 is training other of anna@boxa" in err


def test_a_program_that_is_not_there_is_said_before_anything_starts(home):
    run = started(home, "no-such-program")
    assert "found no command 'no-such-program' in PATH" in run.communicate(timeout=60)[1]
    assert run.returncode == 1


def until(holds, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def waits(name) -> bool:
    return name in [run.run_name for run in waiting_elsewhere(("terminal",), ())]


def test_terminals_take_turns_by_priority_and_a_stopped_one_loses_its_turn(home):
    holder = Holder("r", "other", "anna@boxa", "cuda:1", "GPU-simulated-1", "training", -1, os.getpid(), 0.0, None)
    script = "import sys, time; print(time.time(), flush=True)"
    terminals = {}
    with acquire("GPU-simulated-1", "training", 1, holder) as lease:
        for name, priority in (("last", 9), ("stopped", 1), ("first", 2)):
            flags = ("--name", name, "--priority", str(priority))
            terminals[name] = started(home, sys.executable, "-c", script, flags=flags)
        until(lambda: all(map(waits, terminals)))
        rows = {row["name"]: row for row in json.loads(yard("runs", "--waiting", "--json"))}
        assert {name: row["priority"] for name, row in rows.items()} == {"last": 9, "stopped": 1, "first": 2}
        until(lambda: "2 runs before this one" in yard("show", "last"))  # who came later and is better counts, too
        terminals["stopped"].send_signal(signal.SIGSTOP)
        lease.release()
        out = {name: terminals[name].communicate(timeout=120)[0] for name in ("first", "last")}
    assert float(out["first"]) < float(out["last"])
    terminals["stopped"].send_signal(signal.SIGCONT)
    assert float(terminals["stopped"].communicate(timeout=120)[0]) > float(out["first"])
    assert not any(map(waits, terminals))
