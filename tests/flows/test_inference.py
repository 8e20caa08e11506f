"""Predictions as a person sees them: a table in the folder, in MLflow and in Prefect, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import PREFECT_API_URL

from deployments.runs.flow_list import load_flow
from deployments.runs.local import check_data, check_parameters, device_sections, for_flow
from flows.inference import predict, predict_many
from tasks.base.errors import ConfigError, DatasetError, TrainyardError, WeightsError
from tasks.classification.serving import log_classifier
from tasks.images.images import encode_jpeg
from tasks.inference.params import DetectParams, PredictParams, PredictTrackParams
from tasks.tracking import mlflow_api, registry
from tasks.tracking.dead_run_cleanup import close
from tests.samples import CONFIG, write_weights

BY_ALIAS = PredictParams(weights="models:/nets@champion", device="cpu", n_workers=1)
SLOW = """
from pathlib import Path
from flows.inference import predict
from tasks.inference.params import PredictParams
import sys
predict(Path(sys.argv[1]), PredictParams(weights=sys.argv[2], device="cpu", n_workers=1, batch_size=1))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def champion(prefect_api, yard_home, weights):
    """Return the id of the MLflow run whose model is the champion of `nets`."""
    client = mlflow_api.client()
    run_id = client.create_run(
        client.create_experiment("nets", (yard_home / "mlflow" / "artifacts" / "nets").as_uri())
    ).info.run_id
    client.log_artifact(run_id, str(weights), "weights")
    client.log_dict(run_id, CONFIG, "config/model.json")
    example = encode_jpeg(np.zeros((32, 32, 3), np.uint8), 90)
    version = registry.register("nets", run_id, log_classifier(run_id, weights, CONFIG, example))
    assert registry.promote("nets", version, instead_of=None)
    return run_id


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "flight"
    folder.mkdir()
    for i in range(5):
        cv2.imwrite(str(folder / f"{i}.png"), np.random.default_rng(i).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


@pytest.fixture(scope="module")
def done(champion, pictures):
    return predict(pictures, BY_ALIAS)


def folder_of(run_id, home):
    return home / "runs" / mlflow_api.client().get_run(run_id).data.tags["prefect.flow_run_id"]


def left_over(home):
    return [path for path in (home / "runs").rglob("*") if path.name == "tmp" or path.name.endswith(".tmp")]


def test_the_table_names_every_picture_and_the_one_that_is_broken(done, yard_home):
    folder = folder_of(done, yard_home) / "prediction"
    table = pd.read_csv(folder / "predictions.csv")
    assert [Path(path).name for path in table["path"]] == [*(f"{i}.png" for i in range(5)), "broken.jpg"]
    assert set(table["class"][:5]) <= {"calm", "loud"}
    assert (table["top1_probability"] + table["top2_probability"])[:5].tolist() == pytest.approx([1] * 5)
    assert table["error"].isna().tolist() == [True] * 5 + [False]
    assert (table["seconds"] > 0).all()
    assert len(pd.read_parquet(folder / "predictions.parquet")) == 6
    assert not left_over(yard_home)


def test_mlflow_holds_table_figures_and_which_model_answered_where(done, champion):
    client = mlflow_api.client()
    found = client.get_run(done)
    assert client.get_experiment(found.info.experiment_id).name == "predictions"
    assert (found.info.status, found.info.run_name) == ("FINISHED", "predict-flight")
    assert found.data.metrics["pictures/all"] == 6
    assert found.data.metrics["pictures/failed"] == 1
    assert sum(value for key, value in found.data.metrics.items() if key.startswith("class/")) == 5
    assert found.data.tags["prediction.model"] == "nets 1"
    assert found.data.tags["prediction.device"] == "cpu"
    assert found.data.params["predict.weights"] == "models:/nets@champion"
    files = {Path(item.path).name for item in client.list_artifacts(done, "prediction")}
    assert files == {"predictions.csv", "predictions.parquet", "gallery.png", "prediction.json"}


def test_prefect_shows_the_classes_and_a_summary(done):
    run_id = mlflow_api.client().get_run(done).data.tags["prefect.flow_run_id"]
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        shown = {page.key: page for page in client.read_artifacts(artifact_filter=wanted)}
    assert sum(row["pictures"] for row in json.loads(shown["classes"].data)) == 5
    assert shown["summary"].data.startswith("# 5 of 6 images named by nets 1")
    assert "broken.jpg" in shown["summary"].data
    assert done in shown["mlflow-run"].data
    assert shown["prediction-progress"].data == 100


def test_a_run_a_version_and_a_file_answer_as_the_alias_does(done, champion, pictures, weights, yard_home):
    def answers(run_id):
        return pd.read_csv(folder_of(run_id, yard_home) / "prediction" / "predictions.csv")["probability"].tolist()

    for name in (f"runs:/{champion}", "models:/nets/1", str(weights)):
        again = predict(pictures, BY_ALIAS.model_copy(update={"weights": name}))
        assert answers(again) == pytest.approx(answers(done), nan_ok=True), name


def test_a_model_that_is_not_there_is_refused_with_what_to_do(champion, pictures, yard_home):
    for name in ("models:/nets@best", "models:/nets/7", "models:/none@champion"):
        with pytest.raises(
            WeightsError, match=f"found no model {name.removeprefix('models:/')} in MLflow .*: train one"
        ):
            predict(pictures, BY_ALIAS.model_copy(update={"weights": name}))
    with pytest.raises(WeightsError, match="its run 0123456789abcdef0123456789abcdef is gone from MLflow"):
        predict(pictures, BY_ALIAS.model_copy(update={"weights": "runs:/0123456789abcdef0123456789abcdef"}))
    assert not left_over(yard_home)


def test_a_source_without_one_good_picture_fails_with_its_reason(champion, pictures, yard_home):
    with pytest.raises(DatasetError, match=r"none of 1 image\(s\) could be used: .*broken\.jpg"):
        predict(pictures / "broken.jpg", BY_ALIAS, track=PredictTrackParams(run_name="hopeless"))
    assert not left_over(yard_home)


def test_a_recording_has_a_timeline(champion, tmp_path, yard_home):
    from tasks.signals.params import SpectrogramParams

    radio = SpectrogramParams(sample_rate_hz=1e4, frame_s=0.1, n_fft=64, width=48, height=32)
    np.random.default_rng(0).standard_normal(6000).astype("<f4").tofile(tmp_path / "a.iq")
    folder = folder_of(predict(tmp_path / "a.iq", BY_ALIAS, spectrogram=radio), yard_home) / "prediction"
    assert pd.read_csv(folder / "predictions.csv")["time_s"].tolist() == pytest.approx([0, 0.1, 0.2])
    assert (folder / "timeline.png").is_file()


def test_of_many_sources_one_that_fails_does_not_stop_the_others(champion, pictures, tmp_path):
    n_before = len(
        mlflow_api.client().search_runs([mlflow_api.client().get_experiment_by_name("predictions").experiment_id])
    )
    with pytest.raises(TrainyardError, match="1 of 3 sources failed:\n.*absent"):
        predict_many([pictures / "0.png", tmp_path / "absent", pictures / "1.png"], BY_ALIAS)
    runs = mlflow_api.client().search_runs([mlflow_api.client().get_experiment_by_name("predictions").experiment_id])
    assert [run.info.status for run in runs[: len(runs) - n_before]] == ["FINISHED"] * 2
    copies = BY_ALIAS.model_copy(update={"save_path": tmp_path / "copies"})
    both = predict_many([pictures / "0.png", pictures / "1.png"], copies)
    for number, name in enumerate(("0.png", "1.png"), 1):
        table = pd.read_csv(tmp_path / "copies" / f"{number:03}_{name}" / "predictions.csv")
        assert [Path(path).name for path in table["path"]] == [name]
    assert [mlflow_api.client().get_run(run_id).info.run_name for run_id in both] == ["predict-0.png", "predict-1.png"]


def test_two_stages_give_a_row_per_region(champion, weights, pictures, tmp_path, yard_home):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    torch.save(detector.state_dict(), tmp_path / "ssd.pt")
    detect = DetectParams(weights=tmp_path / "ssd.pt", min_score=0.01, max_regions=3)
    folder = folder_of(predict(pictures, BY_ALIAS, detect=detect), yard_home) / "prediction"
    table = pd.read_csv(folder / "predictions.csv")
    assert table["region"][:15].tolist() == [0, 1, 2] * 5
    assert table["class"][:15].notna().all()
    assert "broken.jpg" in table["error"][15]
    assert json.loads((folder / "prediction.json").read_text())["n_answers"] == 15


def test_what_a_training_file_says_of_device_and_model_reaches_the_flow():
    flow = load_flow("predict")
    assert (device_sections(flow), device_sections(load_flow("predict_many"))) == (["predict"], ["predict"])
    assert device_sections(load_flow("classification")) == ["train"]
    assert device_sections(load_flow("prepare_dataset")) == []
    given = for_flow(flow, {"data": "/d", "train": {"weight_path": "w.pt", "device": "cpu", "num_epochs": 3}})
    assert check_parameters(flow, given)["predict"] == PredictParams(weights="w.pt", device="cpu")
    kept = {"train": {"device": "cpu"}}
    assert for_flow(load_flow("classification"), kept) == kept


def test_a_glob_and_a_list_are_looked_for_before_anything_starts(pictures, tmp_path):
    check_data(pictures / "*.png")
    check_data([pictures, pictures / "0.png"])
    for data in (tmp_path / "*.png", [pictures, tmp_path / "absent"]):
        with pytest.raises(ConfigError, match="found nothing at"):
            check_data(data)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_cancelled_or_killed_leaves_nothing(prefect_api, yard_home, weights, tmp_path, how):
    picture = np.random.default_rng(0).integers(0, 255, (1200, 1800, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "0.jpg"), picture)
    for i in range(1, 3000):
        os.link(tmp_path / "0.jpg", tmp_path / f"{i}.jpg")
    before = set((yard_home / "runs").glob("*"))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path), str(weights)],
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
    )
    try:
        deadline = time.monotonic() + 200
        while not (open_tables := list((yard_home / "runs").glob("*/tmp/predict/predictions.csv"))):
            assert process.poll() is None, "ended before it began"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(how)
        assert process.wait(timeout=120) != 0
    finally:
        process.kill()
        process.wait()
    (folder,) = {path.parents[2] for path in open_tables} - before
    if how is signal.SIGKILL:
        assert (folder / "tmp" / "predict" / "predictions.csv").is_file()
        assert close(folder, "KILLED") == []  # what the worker does about a dead run
    assert not left_over(yard_home)
    assert not (folder / "prediction" / "predictions.csv").exists()
    card = json.loads((folder / "prediction" / "run.json").read_text())
    assert mlflow_api.client().get_run(card["run_id"]).info.status == "KILLED"
