"""A whole yard makes runs of what is copied into its inbox, also while its inbox is killed or there are two of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from deployments.services.service import free_port
from tasks.base.startup import module_command
from tests.deployments.inbox.drops import images
from tests.deployments.waiting import wait_for

YARD = Path(sys.executable).parent / "yard"
REPLACED = {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME", "CUDA_VISIBLE_DEVICES"}


def environment(home):
    kept = {name: value for name, value in os.environ.items() if name not in REPLACED}
    own = {"TRAINYARD_HOME": str(home), "TRAINYARD_LOCK_DIR": str(home / "locks"), "TRAINYARD_DATABASE": "sqlite"}
    return {**kept, **own, "TRAINYARD_SIMULATE_GPUS": "1", "TRAINYARD_OWNER": "anna@boxa"}


def yard(home, *words):
    command = [str(YARD), *map(str, words)]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def home():
    folder = Path(tempfile.mkdtemp(prefix="yard-inbox-"))
    done = yard(folder, "up", "--detach", "--prefect-port", free_port(), "--mlflow-port", free_port())
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder
    finally:
        yard(folder, "down", "--now")
        shutil.rmtree(folder)


def runs(home, name):
    found = json.loads(yard(home, "runs", "--flow", "split_images", "--limit", 100, "--json").stdout)
    return [run for run in found if run["name"].startswith(f"split_images-{name}-")]


def ended(home, name):
    found = runs(home, name)
    return found if found and all(run["type"] in {"COMPLETED", "FAILED", "CRASHED"} for run in found) else None


def test_the_folders_of_the_flows_that_take_data_are_there(home):
    names = {path.name for path in (home / "inbox").iterdir()}
    assert {"splatting", "classification", "recognition", "predict", "split_images", "done", "rejected"} <= names
    assert not {"train_classifier", "serve", "housekeeping"} & names


def test_a_folder_that_is_copied_in_becomes_a_run_that_completes(home, tmp_path):
    drop = home / "inbox" / "split_images"
    (drop / "bands.yaml").write_text("split: {seed: 5}\n")
    assert "split_images/bands.yaml: waits for what it is the parameters of" in str(
        wait_for(lambda: (text := yard(home, "status").stdout) and "bands.yaml" in text and text, 30)
    )
    source = images(tmp_path / "bands")
    for file in sorted(source.rglob("*.png")):  # as a slow copy
        target = drop / file.relative_to(tmp_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        time.sleep(0.3)
    assert runs(home, "bands") == []
    (run,) = wait_for(lambda: ended(home, "bands"), 120)
    assert (run["type"], run["owner"]) == ("COMPLETED", "anna@boxa")
    assert list(drop.iterdir()) == []
    record = json.loads((home / "inbox" / "done" / run["name"] / "item.json").read_text())
    assert (record["run"], record["state"]) == (run["id"], "submitted")
    status = json.loads(yard(home, "status", "--json").stdout)
    assert status["well"], status["faults"]
    assert status["inbox"]["waiting"] == status["inbox"]["taking"] == []
    assert status["inbox"]["place"] == str(home / "inbox")


def test_a_killed_inbox_is_started_again_and_of_two_one_takes_each(home):
    command = module_command("deployments.inbox.serve")
    record = json.loads((home / "services.json").read_text())
    env = {**environment(home), "PREFECT_API_URL": f"{record['prefect']}/api"}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as second:
        try:
            for n in range(4):
                images(home / "inbox" / "split_images" / f"many{n}")
            time.sleep(6)
            os.kill(record["pids"]["inbox"], signal.SIGKILL)
            for n in range(4):
                (run,) = wait_for(lambda n=n: ended(home, f"many{n}"), 180)
                assert run["type"] == "COMPLETED"
            assert wait_for(
                lambda: json.loads((home / "services.json").read_text())["pids"]["inbox"] != record["pids"]["inbox"], 30
            )
        finally:
            second.kill()
    assert len(list((home / "inbox" / "done").glob("split_images-many*"))) == 4


def test_what_is_sent_from_another_machine_goes_on_after_it_was_cut_off_and_becomes_one_run(home, tmp_path):
    sent = images(tmp_path / "sent")
    for path in sent.rglob("*.png"):
        with path.open("ab") as file:
            file.write(os.urandom(6 << 20))  # behind the end of the image
    record = json.loads((home / "services.json").read_text())
    env = {
        **environment(tmp_path / "laptop"),
        "MLFLOW_TRACKING_URI": record["mlflow"],
        "TRAINYARD_OWNER": "berta@laptop",
    }
    command = [str(YARD), "upload", str(sent), "--flow", "split_images", "split.seed=5", "--json"]

    def parts():
        return list((home / "mlflow" / "artifacts").glob("*/*/artifacts/parts/*"))

    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        assert wait_for(lambda: len(parts()) >= 3, 120)
        process.kill()
    before = {path: path.stat().st_mtime_ns for path in parts()[:-1]}
    assert before
    assert runs(home, "sent") == []
    begun = time.time_ns()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert wait_for(lambda: len(parts()) > len(before) + 1, 120)
        kept = sorted(before, key=lambda path: before[path])[:2]
        assert all(path.stat().st_mtime_ns == before[path] < begun for path in kept if path.exists())
        told = json.loads(process.communicate(timeout=180)[0])
    assert process.returncode == 0
    (run,) = wait_for(lambda: ended(home, "sent"), 120)
    assert (run["id"], run["type"], run["owner"]) == (told["run"], "COMPLETED", "berta@laptop")
    data = home / "inbox" / "done" / run["name"] / "data" / "sent"
    assert {p.relative_to(data): p.read_bytes() for p in data.rglob("*.png")} == {
        p.relative_to(sent): p.read_bytes() for p in sent.rglob("*.png")
    }
    assert wait_for(lambda: not parts(), 20)  # their room is free again
