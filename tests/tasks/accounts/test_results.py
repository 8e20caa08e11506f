"""The metric by which people compare runs, found among all that a run logged."""

from dataclasses import replace

import pytest

from tasks.accounts.results import headline, read_results, results_of
from tasks.tracking import mlflow_api
from tests.tasks.accounts.test_account import USE


@pytest.mark.parametrize(
    ("logged", "metric"),
    [
        (["loss/val", "accuracy/val", "accuracy/test", "f1/test_macro"], "accuracy/test"),
        (["map/best", "map/val", "loss/train"], "map/best"),
        (["psnr/held_out", "ssim/held_out", "loss/train"], "psnr/held_out"),
        (["loss", "val_accuracy", "lr"], "val_accuracy"),
        (["loss/train", "loss/val"], "loss/val"),
        (["train_loss", "eval_loss"], "eval_loss"),
        (["loss"], "loss"),
        (["system/cpu_percent", "slot/held_s", "progress/epoch", "learning_rate/last"], None),
        ([], None),
    ],
)
def test_the_headline_of_a_run(logged, metric):
    found = headline(dict.fromkeys(logged, 0.5))
    assert found == (metric and (metric, 0.5))


class Stages:
    """Knows the stages of a pipeline."""

    def pages(self, path, body):
        assert body["flow_runs"]["parent_flow_run_id"]["any_"] == ["r1"]
        yield {"id": "stage", "parameters": {"run": "r1"}}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return mlflow_api.client()


def add(store, flow_run, start_ms, **metrics):
    tags = {"prefect.flow_run_id": flow_run} if flow_run else {}
    run_id = store.create_run("0", start_time=start_ms, tags=tags).info.run_id
    for name, value in metrics.items():
        store.log_metric(run_id, name, value)
    return run_id


def test_results_are_of_the_run_they_name_the_newest_with_a_metric(store):
    add(store, "r1", 5_000_000, accuracy=0.1)
    newer = add(store, "r1", 6_000_000, accuracy=0.2)
    add(store, "r1", 7_000_000)
    add(store, "r2", 1_000, accuracy=0.3)
    add(store, None, 8_000_000, accuracy=0.4)
    found = read_results(4_000.0)
    assert {key: (result.metric, result.value) for key, result in found.items()} == {"r1": ("accuracy", 0.2)}
    assert found["r1"].mlflow_run == newer


def test_a_pipeline_in_ones_own_process_has_the_result_of_its_stage(store):
    add(store, "stage", 1_700_000, accuracy=0.9)
    assert results_of(Stages(), [replace(USE, deployment="")])["r1"].value == 0.9
    assert "r1" not in results_of(Stages(), [USE])
