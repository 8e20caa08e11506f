"""An index is trained, reported on, registered, served, and compared with the champion."""

import logging

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch

from tasks.recognition.index.apply import load_index
from tasks.recognition.index.building import INDEX
from tasks.recognition.index.steps import METRIC_KEYS, TABLE_COLUMNS, TEST_KEYS, IndexRecorder, build_index, report
from tasks.recognition.index.training.session import IndexSession
from tasks.run.display import bars
from tasks.tracking import mlflow_api, registry
from tasks.tracking.tracker import Tracker
from tests.tasks.recognition.index.conftest import PARTS, draw

LOG = logging.getLogger("test")


class Page:
    """The page of a run in Prefect, as far as a training uses it."""

    def __init__(self):
        self.rows = []

    def progress(self, share):
        assert 0 <= share <= 1

    def row(self, row):
        self.rows.append(row)


@pytest.fixture(scope="module")
def run(dataset, params, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)

        def make(name, **options):
            folder, page = tmp_path_factory.mktemp(name), Page()
            some = params.model_copy(update=options)
            with Tracker.open(folder, "recognition", name, {}) as tracker, bars() as shown:
                device, cache = torch.device("cpu"), folder / "cache"
                session = IndexSession(dataset, folder, some, device, cache=cache, clock_ms=lambda: 1)
                IndexRecorder(session, tracker, page, shown, LOG).run()
                build_index(session, shown, LOG)
                text = report(dataset, folder, some, tracker, LOG, model_name="recognition-index")
                return folder, tracker.run_id, text, page

        yield make


@pytest.fixture(scope="module")
def first(run):
    return run("first")


def test_every_epoch_and_the_grades_are_in_mlflow(first, params):
    _, run_id, text, page = first
    client = mlflow_api.client()
    found = client.get_run(run_id).data.metrics
    assert found.keys() >= {*METRIC_KEYS.values(), *TEST_KEYS.values()}
    assert len(client.get_metric_history(run_id, "recall/val_1")) == params.num_epochs
    assert len(page.rows) == params.num_epochs
    assert page.rows[0].keys() == set(TABLE_COLUMNS)
    assert found["onnx/lowest_cosine"] >= 0.9999
    assert "New champion" in text
    files = {
        item.path for folder in ("report", "index", "onnx", "dataset") for item in client.list_artifacts(run_id, folder)
    }
    assert files >= {"index/index.faiss", "onnx/embedding.onnx", "report/confusion_matrix.png", "report/per_part.csv"}


def test_the_served_index_answers_as_the_folder_does(first, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_api.tracking_uri())  # else MLflow makes a store where it is
    folder, *_ = first
    version = registry.champion("recognition-index")
    model = mlflow.pyfunc.load_model(version.source.removeprefix("file://"))
    rng = np.random.default_rng(8)
    crops = [draw(name, rng)[0] for name in PARTS]
    encoded = [cv2.imencode(".png", crop[..., ::-1])[1].tobytes() for crop in crops]
    answer = model.predict(pd.DataFrame({"image": encoded}))
    ours = load_index(folder / INDEX, torch.device("cpu")).name(crops)
    assert answer["part"].tolist() == [each.part or "unknown" for each in ours]
    assert answer["score"].tolist() == pytest.approx([each.score for each in ours], abs=1e-4)
    assert [row[0]["path"] for row in answer["nearest"]] == [each.nearest[0][0] for each in ours]
    assert answer["rotation"][0] == pytest.approx(list(ours[0].rotation), abs=1e-5)
    with pytest.raises(Exception, match="found no image in row 0"):
        model.predict(pd.DataFrame({"image": [b"no image"]}))


def test_an_index_that_answers_the_same_does_not_become_champion(first, run):
    text = run("again")[2]
    assert "The champion stays" in text
    assert int(registry.champion("recognition-index").version) == 1
