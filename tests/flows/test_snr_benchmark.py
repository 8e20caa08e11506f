"""The benchmark over SNRs on small models: what MLflow and Prefect hold afterwards, and what is refused."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from prefect.client.orchestration import get_client

from flows.snr_benchmark import snr_benchmark
from tasks.base.errors import ConfigError, DatasetError, WeightsError
from tasks.classification.models import build_model
from tasks.inference.snr.params import SnrParams, SnrTrackParams
from tasks.signals.params import MixParams, SpectrogramParams
from tasks.tracking import mlflow_api
from tasks.tracking.mlflow_names import as_name

pytestmark = pytest.mark.usefixtures("prefect_api", "yard_home")
CLASSES = ["calm", "loud"]
SNRS = (-20, 0, 10)


def store_model(folder, seed, classes=CLASSES):
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    torch.save(build_model("mobilenet_v3_small", len(classes)).state_dict(), folder / "best.pt")
    config = {"model": "mobilenet_v3_small", "classes": classes, "image_size": 32, "precision": "fp32"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [str(store_model(root / name, seed)) for seed, name in enumerate(("first", "second"))]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("snr") / "bands"
    for snr_db in SNRS:
        for number, label in enumerate(CLASSES):
            folder = root / f"snr_{snr_db}" / label
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = np.random.default_rng(i).integers(0, 60, (40, 40, 3)) + 150 * number
                cv2.imwrite(str(folder / f"{i}.png"), pixels.astype(np.uint8))
    return root


def params(weights, **changes):
    return SnrParams(weights=weights, device="cpu", **changes)


@pytest.fixture(scope="session")
def done(prefect_api, yard_home, pictures, models):
    track = SnrTrackParams(experiment="snr-test", run_name="two models")
    return snr_benchmark(pictures, params([models[0], f"mine={models[1]}"]), track=track)


def test_mlflow_holds_a_curve_for_each_model_with_the_snr_as_step(done):
    client = mlflow_api.client()
    found = client.get_run(done)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "two models")
    for label in ("mobilenet_v3_small-first", "mine"):
        for measure in ("accuracy", "f1_macro"):
            rows = client.get_metric_history(done, f"{measure}/snr/{label}")
            assert sorted(row.step for row in rows) == [-20, 0, 10]
            assert all(0 <= row.value <= 1 for row in rows)
    assert found.data.params["models.mine.architecture"] == "mobilenet_v3_small"


def test_mlflow_holds_tables_and_pictures(done, tmp_path):
    client = mlflow_api.client()
    names = {item.path.removeprefix("snr/") for item in client.list_artifacts(done, "snr")}
    assert names == {
        *("snr.csv", "confusion.csv", "headline.csv", "headline.json"),
        *("accuracy.png", "f1_macro.png", "confusion_01.png", "confusion_02.png"),
    }
    table = pd.read_csv(client.download_artifacts(done, "snr/snr.csv", str(tmp_path)))
    assert len(table) == 6
    rows = client.get_metric_history(done, "accuracy/snr/mine")
    assert {row.step: row.value for row in rows} == dict(
        table.query("model == 'mine'")[["snr_db", "accuracy"]].itertuples(index=False)
    )


def test_prefect_shows_the_table_and_a_link(done):
    with get_client(sync_client=True) as client:
        shown = [page.data for page in client.read_artifacts() if page.key in {"snr", "mlflow-run"}]
    assert any("| SNR, dB | mine | mobilenet_v3_small-first |" in page for page in shown)
    assert any(done in page for page in shown)


def test_clean_recordings_are_mixed_and_graded(models, tmp_path):
    for number, label in enumerate(CLASSES):
        (tmp_path / "iq" / label).mkdir(parents=True)
        iq = np.exp(2j * np.pi * (0.1 + 0.2 * number) * np.arange(8000))
        (tmp_path / "iq" / label / "r.iq").write_bytes(iq.astype("<c8").tobytes())
    spectrogram = SpectrogramParams(sample_rate_hz=1e6, frame_s=4e-3, n_fft=128, width=32, height=32)
    mix = MixParams(snrs_db=(-5, 2.5))
    run_id = snr_benchmark(tmp_path / "iq", params([models[0]]), mix, spectrogram)
    client = mlflow_api.client()
    found = client.get_run(run_id)
    assert client.get_experiment(found.info.experiment_id).name == "snr"
    # 2.5 is no step in MLflow; the table has it.
    assert [row.step for row in client.get_metric_history(run_id, "accuracy/snr")] == [-5]
    table = pd.read_csv(client.download_artifacts(run_id, "snr/snr.csv", str(tmp_path)))
    assert table["snr_db"].tolist() == [-5, 2.5]
    assert table["n_images"].tolist() == [4, 4]
    assert found.data.params["mix.snrs_db"] == "[-5.0, 2.5]"


def test_a_colour_map_of_any_name_has_a_curve_of_its_own(pictures, models, tmp_path):
    for path in pictures.iterdir():
        for name in ("jet (1)", "caf\u00e9"):
            shutil.copytree(path, tmp_path / path.name / name)
    run = snr_benchmark(tmp_path, params(models[:1]))
    keys = {key for key in mlflow_api.client().get_run(run).data.metrics if key.startswith("accuracy/snr/")}
    assert keys == {f"accuracy/snr/{as_name(name)}" for name in ("jet (1)", "caf\u00e9", "all")}
    assert len(keys) == 3


def test_folders_that_are_no_snr_are_refused(models, tmp_path):
    (tmp_path / "data/loud/a").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"\['loud'\], need names that are an SNR"):
        snr_benchmark(tmp_path / "data", params([models[0]]))


def test_a_class_the_model_does_not_know_is_refused(pictures, tmp_path):
    other = store_model(tmp_path / "other", 0, ["bird", "drone"])
    with pytest.raises(DatasetError, match=r"found folders of \['calm', 'loud'\], need classes"):
        snr_benchmark(pictures, params([str(other)]))


def test_weights_that_are_not_there_or_carry_code_are_refused(pictures, tmp_path):
    with pytest.raises(WeightsError, match="found no file of weights"):
        snr_benchmark(pictures, params([str(tmp_path / "none.pt")]))
    folder = store_model(tmp_path / "code", 0)
    torch.save(build_model("mobilenet_v3_small", 2), folder / "best.pt")
    with pytest.raises(WeightsError, match="without pickled code"):
        snr_benchmark(pictures, params([str(folder)]))


@pytest.mark.parametrize("outside", ["pictures", "weights"])
def test_paths_outside_the_allowed_roots_are_refused(pictures, models, monkeypatch, outside):
    inside = {"pictures": models[0], "weights": str(pictures)}[outside]
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", inside)
    with pytest.raises(ConfigError, match="outside the allowed roots"):
        snr_benchmark(pictures, params([models[0]]))
