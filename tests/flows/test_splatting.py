"""The splatting pipeline on twelve small images whose cameras are known: what a person finds afterwards."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from deployments.runs.download import download
from flows.splatting import splatting, train_splat
from tasks.base.errors import ConfigError
from tasks.splatting.mlflow_logging import METRIC_KEYS
from tasks.splatting.params import ExportParams, SplatParams, SplatTrackParams
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tasks.splatting.results.ply import read_ply
from tasks.tracking import mlflow_api
from tests.tasks.splatting.fit_scene import make_scene

STEPS = 60
TRAIN = SplatParams(
    device="cpu", preset="quick", max_steps=STEPS, eval_every=20, cap_max=400, num_threads=1, test_every=4
)
EXPORT = ExportParams(seconds=0.2, fps=10, max_side=64)


@dataclass(frozen=True)
class Done:
    """A run that has ended: its id, its folder, its id in MLflow, its pages in Prefect."""

    id: str
    folder: Path
    run_id: str
    pages: list[Artifact]


@pytest.fixture(scope="session")
def posed(tmp_path_factory):
    root = tmp_path_factory.mktemp("scene") / "cubes"
    scene = make_scene(root / "images")
    model = PinholeModel(tuple(view.camera for view in scene.views), scene.points, scene.colors)
    (root / "sparse" / "0").mkdir(parents=True)
    write_model(root / "sparse" / "0", model)
    return root


@pytest.fixture(scope="session")
def done(prefect_api, yard_home, posed):
    track = SplatTrackParams(experiment="cubes", run_name="cubes")
    run_id = splatting(posed, train=TRAIN, export=EXPORT, track=track)
    with get_client(sync_client=True) as client:
        ids = [found.id for found in client.read_flow_runs() if found.name in {"cubes", "scene-cubes"}]
        pages = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids)))
    (folder,) = [path for path in (yard_home / "runs").iterdir() if (path / "training" / "splat").is_dir()]
    return Done(folder.name, folder, run_id, pages)


def test_every_stage_lies_whole_in_the_folder_of_the_run(done):
    assert {path.name for path in done.folder.iterdir()} >= {"poses", "training"}
    assert {path.name for path in (done.folder / "poses" / "undistorted").iterdir()} >= {"images", "sparse"}
    training = {path.name for path in (done.folder / "training").iterdir()}
    assert training >= {"gaussians.pt", "metrics.csv", "finished.json", "previews", "run.log", "splat"}
    assert "splat.ckpt" not in training
    assert not list(done.folder.rglob("*.tmp"))


def test_mlflow_holds_every_measurement(done):
    client = mlflow_api.client()
    found = client.get_run(done.run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "cubes")
    for key in METRIC_KEYS.values():
        assert [row.step for row in client.get_metric_history(done.run_id, key)] == [20, 40, 60], key
    assert found.data.metrics["poses/registered"] == 12
    assert found.data.params["train.max_steps"] == str(STEPS)
    assert [given.dataset.name for given in found.inputs.dataset_inputs] == ["cubes"]


def test_the_pictures_held_out_are_drawn_better_and_better(done):
    rows = mlflow_api.client().get_metric_history(done.run_id, "psnr/held_out")
    psnr = [row.value for row in rows]
    assert psnr == sorted(psnr)
    assert psnr[-1] > 20


def test_mlflow_holds_views_beside_the_truth_and_the_files(done):
    client = mlflow_api.client()
    assert len(client.list_artifacts(done.run_id, "images")) >= 9  # three views, three times
    paths = {item.path for folder in ("splat", "poses", "log") for item in client.list_artifacts(done.run_id, folder)}
    names = ("splat.ply", "splat.spz", "splat.glb", "splat.zip", "viewer.html", "cameras.json", "turntable.mp4")
    assert paths >= {
        *(f"splat/{name}" for name in names),
        "poses/cameras.png",
        "poses/contact_sheet.jpg",
        "log/run.log",
    }


def test_prefect_shows_progress_a_table_a_link_and_a_summary(done):
    shown = {page.key: page for page in done.pages}
    assert shown["training-progress"].data == 100
    rows = json.loads(shown["training-epochs"].data)
    assert [row["step"] for row in rows] == [20, 40, 60]
    last = {row["figure"]: row["value"] for row in json.loads(shown["training-last"].data)}
    assert (last["step"], last["total_steps"]) == (60, 60)
    assert all(page.description for page in done.pages)
    assert done.run_id in shown["mlflow-run"].data
    assert "12 of 12" in shown["poses"].data


def test_download_brings_every_file_once(done, tmp_path):
    files = download(done.id, tmp_path / "here")
    assert {path.name for path in files} >= {"splat.ply", "viewer.html", "gaussians.pt", "metrics.csv"}
    gaussians = read_ply(tmp_path / "here" / "splat" / "splat.ply")
    assert 300 <= len(gaussians) <= 400
    assert np.isfinite(gaussians.means.numpy()).all()


def test_download_overwrites_nothing(done, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="found something in"):
        download(done.id, tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_fit_with_a_time_limit_ends_in_time_for_its_result(done, monkeypatch):
    monkeypatch.setenv("TRAINYARD_DEADLINE", str(time.time() + 25))
    scene = done.folder / "poses" / "undistorted"
    run_id = train_splat(
        scene, TRAIN.model_copy(update={"max_steps": 1_000_000, "eval_every": 500}), EXPORT, SplatTrackParams()
    )
    found = mlflow_api.client().get_run(run_id)
    assert found.data.tags["ended"] == "deadline"
    assert "ended before its last step" in found.data.tags["mlflow.note.content"]
    assert "splat/viewer.html" in {item.path for item in mlflow_api.client().list_artifacts(run_id, "splat")}
