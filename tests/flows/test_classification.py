"""The whole pipeline on 24 images: what a person finds in the folder, in MLflow and in Prefect afterwards."""

import json
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import FlowRunSort

from flows.classification import classification, train_classifier
from flows.inference import predict
from flows.snr_benchmark import snr_benchmark
from tasks.classification.mlflow_logging import METRIC_KEYS, TEST_KEYS
from tasks.classification.params import AugmentParams, SplitParams, TrackParams, TrainParams
from tasks.inference.params import PredictParams
from tasks.inference.snr.params import SnrParams
from tasks.tracking import mlflow_api
from tests.samples import write_bands

SPLIT = SplitParams(train_ratio=0.5, val_ratio=0.25)
AUGMENT = AugmentParams(methods=("Sharpen",), n_workers=1)
TRAIN = TrainParams(
    model="mobilenet_v3_small",
    image_size=32,
    num_epochs=2,
    device="cpu",
    pretrained=False,
    precision="fp32",
    n_workers=1,
)


@dataclass(frozen=True)
class Done:
    """A run that has ended: its folder, its id in MLflow, its pages in Prefect."""

    folder: Path
    run_id: str
    pages: list[Artifact]
    names: list[str]
    labels: dict[str, dict[str, Any]]  # of each flow run, by flow


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return write_bands(tmp_path_factory.mktemp("data") / "bands")


def run(pictures, home, name) -> Done:
    track = TrackParams(experiment="bands", run_name=name)
    run_id = classification(pictures, SPLIT, AUGMENT, TRAIN, track=track)
    flow_run_id = mlflow_api.client().get_run(run_id).data.tags["prefect.flow_run_id"]
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        runs = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_ASC)
        tasks = client.read_task_runs()
        labels = {client.read_flow(found.flow_id).name: found.labels for found in runs}
        ids = [found.id for found in client.read_flow_runs() if found.name in {name, "prepare-bands"}]
        pages = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids)))
    assert flow_run_id in {str(found.id) for found in runs}
    (folder,) = [home / "runs" / str(found.id) for found in runs if (home / "runs" / str(found.id)).is_dir()]
    return Done(folder, run_id, pages, [task.name for task in tasks], labels)


@pytest.fixture(scope="session")
def first(prefect_api, yard_home, pictures):
    return run(pictures, yard_home, "first")


@pytest.fixture(scope="session")
def second(first, yard_home, pictures):
    return run(pictures, yard_home, "second")


def count(folder):
    return {part: len(list((folder / part).rglob("*.*"))) for part in ("train", "val", "test")}


def test_every_stage_lies_whole_in_the_folder_of_the_run(first):
    assert {path.name for path in first.folder.iterdir()} >= {"split", "augmented", "training"}
    assert count(first.folder / "split") == {"train": 12, "val": 6, "test": 6}
    assert count(first.folder / "augmented") == {"train": 24, "val": 6, "test": 6}
    made_with = json.loads((first.folder / "augmented" / "made_with.json").read_text())
    assert made_with["augment"]["methods"] == ["Sharpen"]
    assert made_with["split"]["train_ratio"] == 0.5
    training = {path.name for path in (first.folder / "training").iterdir()}
    assert training >= {"best.pt", "last.pt", "config.json", "history.csv", "finished.json", "report", "run.log"}
    assert "checkpoint.pt" not in training
    assert not list(first.folder.rglob("*.tmp"))


def test_mlflow_holds_every_figure_of_every_epoch(first):
    client = mlflow_api.client()
    found = client.get_run(first.run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert len(METRIC_KEYS) == 16
    no_top = {"top_k/val_3", "top_k/val_5", "top_k/test_3", "top_k/test_5"}  # of two classes: not defined
    for key in set(METRIC_KEYS.values()) - no_top:
        assert [row.step for row in client.get_metric_history(first.run_id, key)] == [1, 2], key
    for key in set(TEST_KEYS.values()) - no_top:
        assert len(client.get_metric_history(first.run_id, key)) == 1, key
    assert not no_top & set(found.data.metrics)
    history = pd.read_csv(first.folder / "training" / "history.csv")
    rows = client.get_metric_history(first.run_id, "loss/val")
    assert [row.value for row in rows] == pytest.approx(history["val_loss"].tolist())
    assert [row.timestamp for row in rows] == history["timestamp_ms"].tolist()


def test_mlflow_holds_every_parameter_and_the_data(first, pictures):
    found = mlflow_api.client().get_run(first.run_id)
    assert found.data.params["train.model"] == "mobilenet_v3_small"
    assert found.data.params["split.val_ratio"] == "0.25"
    assert found.data.params["augment.methods"] == '["Sharpen"]'
    assert found.data.params["data"] == str(pictures)
    contexts = sorted(given.tags[0].value for given in found.inputs.dataset_inputs)
    assert contexts == ["testing", "training", "validation"]


def test_mlflow_knows_that_the_experiment_is_of_trainings(first):
    client = mlflow_api.client()
    experiment = client.get_experiment_by_name("bands")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    client.delete_experiment_tag(experiment.experiment_id, "mlflow.experimentKind")  # as an earlier version left it
    assert mlflow_api._experiment_id(client, mlflow_api.tracking_uri(), "bands") == experiment.experiment_id
    assert client.get_experiment_by_name("bands").tags["mlflow.experimentKind"] == "custom_model_development"


def test_mlflow_holds_the_files(first):
    client = mlflow_api.client()
    paths = {
        item.path
        for folder in ("weights", "report", "config", "log", "figures", "dataset")
        for item in client.list_artifacts(first.run_id, folder)
    }
    assert paths >= {
        "weights/best.pt",
        "weights/last.pt",
        "report/confusion_matrix.png",
        "report/learning_curves.png",
        "report/samples.png",
        "report/metrics.json",
        "config/params.json",
        "config/model.json",
        "figures/history.csv",
        "dataset/seen_digests.json",
        "log/run.log",
    }
    log = Path(client.download_artifacts(first.run_id, "log/run.log")).read_text()
    assert log.count("epoch 1/2: loss") == 1
    assert log.count("epoch 2/2: loss") == 1


def test_the_first_model_is_champion_and_predicts(first, pictures, monkeypatch):
    client = mlflow_api.client()
    version = client.get_model_version_by_alias("bands", "champion")
    assert version.run_id == first.run_id
    assert version.tags["promoted"] == "true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_api.tracking_uri())
    served = mlflow.pyfunc.load_model("models:/bands@champion")
    files = [next((pictures / name).glob("*.png")).read_bytes() for name in ("calm", "loud")]
    answer = served.predict(pd.DataFrame({"image": files}))
    assert set(answer["class"]) <= {"calm", "loud"}
    assert [sum(row) for row in answer["probabilities"]] == pytest.approx([1, 1], abs=1e-5)


def test_the_champion_names_new_pictures_with_calibrated_confidence(first, pictures, yard_home):
    asked = PredictParams(weights="models:/bands@champion", device="cpu", n_workers=1)
    found = mlflow_api.client().get_run(predict(pictures / "loud", asked))
    table = pd.read_csv(yard_home / "runs" / found.data.tags["prefect.flow_run_id"] / "prediction" / "predictions.csv")
    temperature = json.loads((first.folder / "training" / "config.json").read_text())["temperature"]
    softer = (table["probability"] / (1 - table["probability"])) ** (1 / temperature if temperature else np.nan)
    expected = softer / (1 + softer)  # of two classes; none where six images tell no temperature
    assert table["calibrated_confidence"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-4, nan_ok=True)


def test_the_champion_is_graded_at_every_ratio(first, pictures, tmp_path):
    for ratio in ("-4dB", "8dB"):
        shutil.copytree(pictures, tmp_path / "snr" / ratio)
    asked = SnrParams(weights=("models:/bands@champion", f"runs:/{first.run_id}"), device="cpu")
    found = mlflow_api.client().get_run(snr_benchmark(tmp_path / "snr", asked))
    curves = [name for name in found.data.metrics if name.startswith("accuracy/snr")]
    assert len(curves) == 2
    assert len({found.data.metrics[name] for name in curves}) == 1  # they are the same model


def test_prefect_shows_progress_a_table_a_link_and_a_summary(first):
    shown = {page.key: page for page in first.pages}
    assert shown["training-progress"].data == 100
    rows = json.loads(shown["training-epochs"].data)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert len(rows[0]) <= 8  # the page has room for no more; the rest is in a table of its own
    last = {row["figure"]: row["value"] for row in json.loads(shown["training-last"].data)}
    assert (set(last), last["epoch"]) == (set(METRIC_KEYS), 2)
    assert all(page.description for page in first.pages)
    assert first.run_id in shown["mlflow-run"].data
    assert "# mobilenet_v3_small: " in shown["summary"].data
    assert "| calm | 6 | 3 | 3 |" in shown["split"].data


def test_the_run_says_how_it_used_its_slot(first):
    labels = first.labels["classification"]  # it holds the slot for its parts
    held, batch = labels["trainyard.held_s"], labels["trainyard.first_batch_s"]
    assert 0 < batch < held < 600
    assert "trainyard.gpu_busy_share" not in labels
    assert "trainyard.held_s" not in first.labels["train_classifier"]
    figures = mlflow_api.client().get_run(first.run_id).data.metrics
    assert figures["slot/first_batch_s"] == pytest.approx(batch, abs=0.001)
    assert batch < figures["slot/held_s"] <= held
    assert "slot/gpu_busy_share" not in figures
    summary = next(page.data for page in first.pages if page.key == "summary")
    # Of the metric: the label is rounded, and 1.8499 and 1.85 are not the same tenth.
    assert f"first batch after {figures['slot/first_batch_s']:.1f} s." in summary


def test_steps_have_names_a_person_reads(first):
    wanted = {"split", "augment-Sharpen", "train-mobilenet_v3_small", "report"}
    assert wanted <= set(first.names)


def test_the_same_again_gives_the_same_figures_and_does_not_become_champion(first, second):
    client = mlflow_api.client()
    both = [client.get_run(done.run_id).data.metrics for done in (first, second)]
    for key in (*METRIC_KEYS.values(), *TEST_KEYS.values()):
        assert both[0].get(key) == both[1].get(key), key
    assert client.get_model_version_by_alias("bands", "champion").run_id == first.run_id
    (version,) = [v for v in client.search_model_versions("name='bands'") if v.run_id == second.run_id]
    assert version.tags["promoted"] == "false"
    assert version.tags["compared_with"] == "1"
    assert version.description
    assert client.get_run(second.run_id).data.tags["decision"] == version.description


def test_a_run_writes_nothing_outside_its_home(second, yard_home, monkeypatch):
    assert {path.name for path in yard_home.iterdir()} <= {"runs", "cache", "mlflow", "prefect", "logs", "locks"}


def test_who_else_computes_on_the_gpu_is_seen_by_a_run_without_a_worker(first, yard_home, tmp_path, monkeypatch):
    state = tmp_path / "gpus.json"
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "1")
    monkeypatch.setenv("TRAINYARD_SIMULATED_STATE", str(state))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr("tasks.tracking.foreign._AGAIN_S", 0.0)
    before = set(yard_home.glob("runs/*/training/run.log"))

    def logs():
        return set(yard_home.glob("runs/*/training/run.log")) - before

    def intrude():
        while not any("epoch 5/30" in path.read_text() for path in logs()):
            time.sleep(0.02)
        intruder = {"pid": 1, "user": "bob", "name": "init", "memory_mib": 2100}  # nobody's child
        (tmp_path / "new.json").write_text(json.dumps({"cuda:0": {"processes": [intruder]}}))
        (tmp_path / "new.json").rename(state)

    threading.Thread(target=intrude, daemon=True).start()
    train = TRAIN.model_copy(update={"device": "cuda:0", "num_epochs": 30})
    track = TrackParams(experiment="beset", run_name="beset")
    run_id = train_classifier(first.folder / "augmented", train, track=track)
    figures = {row.step: row.value for row in mlflow_api.client().get_metric_history(run_id, "foreign/memory_mib")}
    assert sorted(figures) == list(range(1, 31))
    assert (figures[4], figures[30]) == (0, 2100)
    assert mlflow_api.client().get_run(run_id).data.tags["foreign_process"] == "pid 1 (bob, init), 2100 MiB"
    (log,) = logs()
    assert log.read_text().count("pid 1 (bob, init) computes on this run's GPU and is no run, 2100 MiB") == 1
