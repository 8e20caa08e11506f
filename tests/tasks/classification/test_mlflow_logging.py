"""A training as MLflow and the page of its step hold it, through a restart."""

import logging

import pytest
import torch

from tasks.classification.mlflow_logging import (
    TrainingRecorder,
    copy_results,
    grade_and_log,
    keep_answers,
    log_training,
)
from tasks.classification.params import EvaluateParams, TrainParams
from tasks.classification.training.session import TrainingSession
from tasks.run.display import bars
from tasks.tracking import mlflow_api
from tasks.tracking.tracker import Tracker
from tasks.training.events import EpochDone
from tests.samples import write_subsets


class Table:
    """Takes what the page of a step would show."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def row(self, row) -> None:
        self.rows.append(row["epoch"])

    def progress(self, share: float) -> None:
        pass


@pytest.fixture
def dataset(tmp_path):
    return write_subsets(tmp_path / "data", 32, train=2, val=2)


def test_after_a_kill_between_saving_and_logging_no_epoch_is_missing(tmp_path, dataset, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = TrainParams(
        model="mobilenet_v3_small", pretrained=False, image_size=32, batch_size=4, num_epochs=2, precision="fp32"
    )

    def session() -> TrainingSession:
        return TrainingSession(
            dataset, tmp_path / "run", params, torch.device("cpu"), cache=tmp_path / "cache", clock_ms=lambda: 0
        )

    events = session().run()
    next(event for event in events if isinstance(event, EpochDone))  # saved, never handed on
    events.close()
    again, page = session(), Table()
    with Tracker.open(tmp_path / "run", "exp", "r", {}) as tracker, bars() as shown:
        TrainingRecorder(again, tracker, page, shown, logging.getLogger("quiet")).run()
    assert page.rows == [1, 2]
    run = mlflow_api.client().get_run(tracker.run_id)
    assert [m.step for m in mlflow_api.client().get_metric_history(run.info.run_id, "loss/train")] == [1, 2]
    assert {tag.value for i in run.inputs.dataset_inputs for tag in i.tags} == {"training", "validation"}


def test_a_training_is_graded_registered_and_decided_on_once(tmp_path, dataset, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = TrainParams(
        model="mobilenet_v3_small", pretrained=False, image_size=32, batch_size=4, num_epochs=1, precision="fp32"
    )
    cpu, cache, folder = torch.device("cpu"), tmp_path / "cache", tmp_path / "run"
    session = TrainingSession(dataset, folder, params, cpu, cache=cache, clock_ms=lambda: 0)
    said: list[str] = []
    for _ in range(2):  # the second time as after a crash behind the decision
        with Tracker.open(folder, "graded", "r", {}) as tracker, bars() as shown:
            TrainingRecorder(session, tracker, Table(), shown, logging.getLogger("quiet")).run()
            keep_answers(dataset, folder, cpu, model_name="graded", cache=cache, log=said.append)
            log_training(folder, tracker)
            report, decision = grade_and_log(
                dataset,
                folder,
                tracker,
                EvaluateParams(),
                model_name="graded",
                cache=cache,
                log=said.append,
            )
    assert "graded on val" in said[0]
    run = mlflow_api.client().get_run(tracker.run_id)
    assert run.data.metrics["accuracy/test"] == report.grades.accuracy
    assert run.data.tags["decision"] == decision.reason == "promoted: there is no champion yet"
    (version,) = mlflow_api.client().search_model_versions("name = 'graded'")
    assert (version.run_id, version.description) == (tracker.run_id, decision.reason)
    assert {item.path for item in mlflow_api.client().list_artifacts(tracker.run_id, "report")} >= {
        "report/metrics.json"
    }


def test_results_are_copied_whole(tmp_path):
    training = tmp_path / "training"
    (training / "report").mkdir(parents=True)
    for name in ("best.pt", "last.pt", "config.json", "history.csv", "report/metrics.json"):
        (training / name).write_text(name)
    copy_results(training, tmp_path / "out")
    copy_results(training, tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert found == ["best.pt", "config.json", "history.csv", "last.pt", "report/metrics.json"]
    assert (tmp_path / "out" / "best.pt").read_text() == "best.pt"
