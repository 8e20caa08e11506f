"""Runs that wait are moved to another device, and stay what they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_pools.names import asker

YARD = Path(sys.executable).parent / "yard"


def command(*words):
    done = subprocess.run([YARD, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def waiting(yard, name, flow="train_classifier", parameters=None, **body):
    given = {"dataset": "/d", "train": {"model": "resnet50"}} if parameters is None else parameters
    return yard.create(flow, name=name, parameters=given, job_variables={"owner": asker(), "priority": 2}, **body)


def test_a_run_that_waits_keeps_its_place_and_all_else(yard):
    run = waiting(yard, "moved", work_queue_name="cuda:0.training")
    code, said = command("move", "moved", "--device", "cuda:1")
    assert (code, said) == (0, f"run {run['id']} (moved) waits for cuda:1 now\n")
    after = yard.read(run["id"])
    same = ("id", "name", "expected_start_time", "tags", "state_type", "work_queue_name", "deployment_id")
    assert {key: after[key] for key in same} == {key: run[key] for key in same}
    assert after["parameters"] == {"dataset": "/d", "train": {"model": "resnet50", "device": "cuda:1"}}
    assert after["job_variables"] == {"owner": asker(), "priority": 2, "queue": "cuda:1.training"}
    (row,) = [row for row in json.loads(command("runs", "--waiting", "--json")[1]) if row["name"] == "moved"]
    assert (row["device"], row["queue"], row["priority"]) == ("cuda:1", "cuda:1.training", 2)
    assert command("move", "moved", "--device", "boxb/cuda:1")[0] == 0
    assert yard.read(run["id"])["job_variables"]["queue"] == "boxb.cuda:1.training"
    audit = json.loads(command("audit", "--run", run["id"], "--format", "json")[1])
    assert [(line["act"], line["details"]) for line in audit if line["result"] == "done"] == [
        ("move", "to cuda:1"),
        ("move", "to boxb/cuda:1"),
    ]


def test_a_pipeline_that_waits_names_the_device_of_its_stages(yard):
    run = waiting(yard, "whole", "classification", {"data": "/d"})
    assert command("move", "whole", "--device", "cuda:1")[0] == 0
    after = yard.read(run["id"])
    assert after["parameters"]["train"]["device"] == "cuda:1"
    assert "queue" not in after["job_variables"]
    code, said = command("move", "whole", "--device", "cuda:1")
    assert (code, "waits for cuda:1 already" in said) == (1, True)


def test_of_a_pipeline_that_runs_the_stage_that_waits_is_moved(yard):
    parent = waiting(yard, "parent", "classification", {"data": "/d"})
    yard.state(parent["id"], "RUNNING")
    stage = yard.child(parent["id"], "train_classifier", name="parent", parameters={"dataset": "/d"})
    assert command("move", "parent", "--device", "cpu")[0] == 0
    assert yard.read(stage["id"])["job_variables"]["queue"] == "cpu.training"
    assert "train" not in yard.read(parent["id"])["parameters"]


@pytest.mark.parametrize(
    ("device", "parameters", "why"),
    [
        ("cuda:7", {"dataset": "/d"}, "found no device 'cuda:7' for training, have: "),
        ("cpu", {"dataset": "/d", "train": {"precision": "fp16"}}, "precision fp16 needs a GPU, found device cpu"),
        ("", {"dataset": "/d"}, "need --device"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(yard, device, parameters, why):
    run = waiting(yard, f"stays-{device or 'nowhere'}", parameters=parameters)
    code, said = command("move", run["id"], "--device", device)
    assert (code, why in said) == (1, True), said
    after = yard.read(run["id"])
    assert (after["parameters"], after["job_variables"]) == (run["parameters"], run["job_variables"])


def test_a_run_that_runs_is_not_moved(yard):
    run = waiting(yard, "runs")
    yard.state(run["id"], "RUNNING")
    code, said = command("move", run["id"], "--device", "cuda:1")
    assert (code, "(runs) is Running: only what waits can be moved" in said) == (1, True)


def test_all_of_a_flow_and_an_owner_are_moved(yard):
    mine = waiting(yard, "mine", "train_splat", {"scene": "/s"})
    other = yard.create("train_splat", name="theirs", parameters={"scene": "/s"}, job_variables={"owner": "zoe@boxz"})
    code, said = command("move", "--flow", "train_splat", "--owner", "me", "--device", "cuda:1", "--yes")
    assert code == 0, said
    assert yard.read(mine["id"])["job_variables"]["queue"] == "cuda:1.training"
    assert "queue" not in yard.read(other["id"])["job_variables"]
