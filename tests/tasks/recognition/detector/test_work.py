"""A detector trained, graded, served and compared, with a real store of MLflow."""

import json
import logging
import shutil

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from tasks.images.images import read_rgb
from tasks.recognition.coco.write_yolo import write_yolo
from tasks.recognition.detector.apply import load_detector
from tasks.recognition.detector.recorder import DetectorRecorder
from tasks.recognition.detector.training.session import DetectorSession
from tasks.recognition.detector.work import keep_detections, report_detector
from tasks.recognition.params import DetectorParams
from tasks.run.display import bars
from tasks.tracking import mlflow_api
from tasks.tracking.tracker import Tracker
from tests.tasks.recognition.detector.conftest import PARTS, write_scenes

SMALL = {"image_size": 64, "window": 0, "batch_size": 6, "learning_rate": 4e-3, "ema_decay": 0.9, "n_workers": 1}
SMALL |= {"precision": "fp32", "device": "cpu", "n_worst": 4}
QUIET = logging.getLogger("quiet")


class Table:
    """Takes what the page of a step would show."""

    def row(self, row):
        pass

    def progress(self, share):
        pass


def photographs(folder):
    """Write annotated images as YOLO's tools do; return the folder."""
    images = write_scenes(folder, 6, seed=9)
    (folder / "annotations.json").unlink()
    write_yolo(folder, images, PARTS)
    return folder


def run(tmp_path, dataset, name, **values):
    """Train and report; return the MLflow run and the summary."""
    params = DetectorParams(**{**SMALL, **values})
    folder = tmp_path / name
    with Tracker.open(folder, "parts", name, {}) as tracker, bars() as shown:
        cpu, cache = torch.device("cpu"), tmp_path / "cache"
        session = DetectorSession(dataset, folder, params, cpu, cache=cache, clock_ms=lambda: 0)
        DetectorRecorder(session, tracker, Table(), shown, QUIET).run()
        keep_detections(session, shown, QUIET, model_name="parts-detector")
        text = report_detector(dataset, folder, params, tracker, QUIET, model_name="parts-detector")
        run_id = tracker.run_id
    return mlflow_api.client().get_run(run_id), text


@pytest.fixture(scope="module")
def first(own_home, dataset):
    """The folder, MLflow run and summary of a first training."""
    real = photographs(own_home / "real")
    return own_home, *run(own_home, dataset, "first", num_epochs=14, real_images=real)


def test_the_report_has_the_grades_of_scenes_and_photographs(first):
    home, run_, text = first
    metrics = run_.data.metrics
    assert metrics["map50/test"] > 0.3
    assert metrics["map50/gap_rendered_real"] == pytest.approx(metrics["map50/test"] - metrics["map50/real"])
    assert {"recall/test disc", "average_precision_50/real square", "loss/train_quality"} <= metrics.keys()
    assert "| metric | rendered | real |" in text
    assert "**New champion.** promoted: there is no champion yet" in text
    assert "ONNX agrees with the original on 8 images" in text
    names = {path.name for path in (home / "first" / "report").iterdir()}
    assert names >= {"metrics.json", "gallery.jpg", "real_gallery.jpg", "precision_recall.png", "confusion_matrix.png"}
    said = json.loads((home / "first" / "report" / "metrics.json").read_text())["rendered"]
    assert said["map50"] == metrics["map50/test"]
    found = {item.path for item in mlflow_api.client().list_artifacts(run_.info.run_id, "onnx")}
    assert found == {"onnx/detector.onnx"}


def test_the_served_detector_gives_the_boxes_of_the_one_in_the_folder(first, dataset, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_api.tracking_uri())  # else MLflow makes a store where it is
    home, run_, _ = first
    (version,) = mlflow_api.client().search_model_versions("name = 'parts-detector'")
    model = mlflow.pyfunc.load_model(version.source.removeprefix("file://"))
    paths = sorted((dataset / "scenes" / "test" / "images").iterdir())[:3]
    wide = cv2.copyMakeBorder(cv2.imread(str(paths[0])), 0, 40, 0, 200, cv2.BORDER_CONSTANT)
    files = [path.read_bytes() for path in paths] + [cv2.imencode(".png", wide)[1].tobytes()]
    answer = model.predict(pd.DataFrame({"image": files}))
    config = json.loads((home / "first" / "config.json").read_text())
    detector = load_detector(home / "first" / "best.pt", config, torch.device("cpu"))
    images = [read_rgb(path) for path in paths] + [wide[..., ::-1].copy()]
    for image, found, (_, row) in zip(images, detector(images), answer.iterrows(), strict=True):
        height, width = image.shape[:2]
        sure = [one for one in found if one.score >= config["threshold"]]
        assert row["names"] == [one.name for one in sure]
        mine = [(one.left * width, one.top * height, one.right * width, one.bottom * height) for one in sure]
        assert np.array(row["boxes"]) == pytest.approx(np.array(mine), abs=1e-3)
    assert sum(len(names) for names in answer["names"]) >= 3


def test_a_worse_detector_does_not_become_champion(first, dataset):
    home, _, _ = first
    _, text = run(home, dataset, "second", num_epochs=1, learning_rate=1e-6, check_onnx=False)
    assert "**The champion stays.**" in text
    shutil.rmtree(home / "second")
