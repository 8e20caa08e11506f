"""The recognition of three meshes, small and short: what a person finds in the folder, in MLflow and in Prefect."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from flows.inference import predict
from flows.recognition import add_part, recognition, train_index
from tasks.base.errors import ConfigError
from tasks.images.images import read_bytes
from tasks.inference.params import DetectParams, PredictParams
from tasks.recognition.demo.parts import make_demo_parts
from tasks.recognition.params import (
    AddParams,
    DetectorParams,
    IndexParams,
    MethodParams,
    RecognitionTrackParams,
)
from tasks.tracking import mlflow_api
from tests.tasks.recognition.small_rendering import SMALL_RENDERING

RENDER = SMALL_RENDERING.model_copy(
    update={"train_views": 8, "val_views": 4, "test_views": 4, "distractor_views": 4,
            "train_scenes": 8, "val_scenes": 4, "test_scenes": 4}
)  # fmt: skip
DETECTOR = DetectorParams(device="cpu", image_size=96, num_epochs=1, batch_size=4, precision="fp32", n_workers=1)
INDEX = IndexParams(device="cpu", image_size=48, num_epochs=1, batch_size=8, precision="fp32", n_workers=1)
PARTS = ("flange_4_holes", "nut", "tee")


@dataclass(frozen=True)
class Done:
    """A run that has ended: its folder, the ids of its MLflow runs, its pages in Prefect."""

    folder: Path
    run_ids: list[str]
    pages: list[Artifact]


@pytest.fixture(scope="session")
def meshes(tmp_path_factory):
    """A folder with three meshes, and one with a fourth."""
    folder = tmp_path_factory.mktemp("meshes")
    (folder / "all").mkdir()
    made = {path.stem: path for path in make_demo_parts(folder / "all")}
    (folder / "parts").mkdir()
    for name in PARTS:
        made[name].rename(folder / "parts" / f"{name}.stl")
    return folder / "parts", made["washer"]


@pytest.fixture(scope="session")
def done(prefect_api, yard_home, meshes):
    track = RecognitionTrackParams(experiment="parts", run_name="three")
    run_ids = recognition(meshes[0], render=RENDER, detector=DETECTOR, index=INDEX, track=track)
    with get_client(sync_client=True) as client:
        ids = [found.id for found in client.read_flow_runs() if found.name.startswith(("three", "render-"))]
        pages = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids)))
    (folder,) = [path for path in (yard_home / "runs").iterdir() if (path / "rendered").is_dir()]
    return Done(folder, run_ids, pages)


def test_the_data_set_was_rendered_once_and_whole(done):
    parts = json.loads((done.folder / "rendered" / "parts.json").read_text())
    assert [part["name"] for part in parts["parts"]] == list(PARTS)
    assert len(list((done.folder / "rendered" / "views").rglob("*.jpg"))) == 3 * 16 + 2 * 4
    assert len(list((done.folder / "rendered" / "scenes").rglob("*.jpg"))) == 16


def test_each_method_has_a_run_in_mlflow_with_its_epochs_and_report(done):
    client = mlflow_api.client()
    detector, index = (client.get_run(run_id) for run_id in done.run_ids)
    assert [run.info.run_name for run in (detector, index)] == ["three-detector", "three-index"]
    assert {run.info.status for run in (detector, index)} == {"FINISHED"}
    for run, method in ((detector, "detector"), (index, "index")):
        assert run.data.params["render.view_size"] == "48"
        assert run.data.params[f"{method}.num_epochs"] == "1"
        reports = {item.path for item in client.list_artifacts(run.info.run_id, "report")}
        assert "report/metrics.json" in reports
    assert client.get_model_version_by_alias("parts-detector", "champion").run_id == detector.info.run_id
    assert client.get_model_version_by_alias("parts-index", "champion").run_id == index.info.run_id


def test_prefects_page_has_the_parts_and_the_results_of_both(done):
    keys = {page.key for page in done.pages}
    assert {"parts", "summary", "mlflow-run-detector", "mlflow-run-index"} <= keys
    (summary,) = [str(page.data) for page in done.pages if page.key == "summary"]
    assert "mAP" in summary
    assert "recall" in summary


@pytest.mark.parametrize("name", ["parts-detector", "parts-index"])
def test_both_models_are_served_from_mlflow(done, name, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_api.tracking_uri())
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    picture = next((done.folder / "rendered" / "views" / "test").rglob("*.jpg"))
    answer = model.predict(pd.DataFrame({"image": [read_bytes(picture)] * 2}))
    assert len(answer) == 2


def rows_of(run_id: str, home: Path) -> tuple[pd.DataFrame, Path]:
    (folder,) = [path.parent for path in home.glob("runs/*/prediction/run.json") if run_id in path.read_text()]
    return pd.read_csv(folder / "predictions.csv"), folder


def test_predict_asks_the_index_about_whole_images(done, yard_home):
    run_id = predict(
        done.folder / "rendered" / "views" / "test" / "nut",
        PredictParams(weights="models:/parts-index@champion", device="cpu"),
    )
    table, _ = rows_of(run_id, yard_home)
    assert len(table) == 4
    assert set(table["class"]) <= {*PARTS, "unknown"}
    assert table["nearest_view"].notna().all()
    assert (table[["rotation_w", "rotation_x", "rotation_y", "rotation_z"]] ** 2).sum(axis=1).round(3).eq(1).all()


def test_predict_draws_what_the_detector_finds_and_the_index_names(done, yard_home):
    scenes = done.folder / "rendered" / "scenes" / "test" / "images"
    detect: dict[str, Any] = {"min_score": 0.0, "max_regions": 3}  # after one epoch nothing is sure
    own = predict(
        scenes, PredictParams(weights="models:/parts-detector@champion", device="cpu"), detect=DetectParams(**detect)
    )
    table, folder = rows_of(own, yard_home)
    assert set(table["class"]) <= set(PARTS)
    content = json.loads((folder / "annotations.json").read_text())
    assert {image["file_name"] for image in content["images"]} == {path.name for path in scenes.iterdir()}
    assert len(content["annotations"]) == table["region"].notna().sum() > 0
    assert (folder / "boxes.jpg").stat().st_size > 1000
    both = predict(
        scenes,
        PredictParams(weights="models:/parts-index@champion", device="cpu"),
        detect=DetectParams(weights="models:/parts-detector@champion", **detect),
    )
    table, folder = rows_of(both, yard_home)
    assert set(table["class"].dropna()) <= {*PARTS, "unknown"}
    assert (folder / "annotations.json").is_file()


def test_a_part_is_added_to_the_index_without_training(done, meshes, yard_home):
    track = RecognitionTrackParams(experiment="parts")
    run_id = add_part(meshes[1], index="models:/parts-index@champion", add=AddParams(device="cpu"), track=track)
    client = mlflow_api.client()
    assert client.get_model_version_by_alias("parts-index", "champion").run_id == run_id
    views = done.folder / "rendered" / "views" / "test" / "nut"
    answer = predict(views, PredictParams(weights="models:/parts-index@champion", device="cpu"))
    table, _ = rows_of(answer, yard_home)
    assert set(table["class"]) <= {*PARTS, "washer", "unknown"}
    with pytest.raises(ConfigError, match="washer"):
        add_part(meshes[1], index="models:/parts-index@champion", add=AddParams(device="cpu"), track=track)


@pytest.mark.long
def test_an_index_is_trained_by_itself_on_a_data_set_that_is_there(done, yard_home):
    track = RecognitionTrackParams(experiment="alone", run_name="alone")
    run_id = train_index(done.folder / "rendered", INDEX, track)
    assert mlflow_api.client().get_run(run_id).info.run_name == "alone-index"


def test_two_devices_in_one_process_are_refused(prefect_api, yard_home, meshes):
    with pytest.raises(ConfigError, match="the same for both"):
        recognition(meshes[0], detector=DetectorParams(device="cuda"), index=INDEX)


def test_a_folder_without_meshes_is_refused_before_anything_is_rendered(prefect_api, yard_home, tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(Exception, match=r"mesh|STL"):
        recognition(tmp_path, methods=MethodParams(index=False), detector=DETECTOR)
