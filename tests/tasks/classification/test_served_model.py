"""A logged classifier loads and predicts where nothing of this project is installed."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tasks.base.errors import TrackingError
from tasks.classification import served_model
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.subset_images import SubsetImages
from tasks.classification.models import build_model
from tasks.classification.params import Architecture
from tasks.classification.serving import log_classifier
from tasks.images import decoding
from tasks.images.decoding import resize_rgb
from tasks.tracking import mlflow_api
from tasks.tracking.tracker import Tracker
from tests import samples

CONFIG = samples.CONFIG | {"classes": ["fpv", "dji"], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


@pytest.fixture(scope="module")
def image() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.fixture(scope="module")
def logged(own_home, image):
    """A run with a logged model, and the network it was made from."""
    torch.manual_seed(0)
    network = build_model("mobilenet_v3_small", 2).eval()
    torch.save(network.state_dict(), own_home / "w.pt")
    with Tracker.open(own_home / "run", "exp", "r", {}) as tracker:
        model_uri = log_classifier(tracker.run_id, own_home / "w.pt", CONFIG, image, step=3)
        yield mlflow_api.client(), tracker.run_id, model_uri, own_home / "w.pt", network


def local_path(client, model_uri):
    """Return the folder of a logged model."""
    location = client.get_logged_model(model_uri.removeprefix("models:/")).artifact_location
    return location.removeprefix("file://")


def test_prediction_is_the_networks_own(logged, image):
    client, _, model_uri, _, network = logged
    answer = mlflow.pyfunc.load_model(local_path(client, model_uri)).predict(pd.DataFrame({"image": [image] * 2}))
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    pixels = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA) / 255
    x = ((pixels - CONFIG["mean"]) / CONFIG["std"]).transpose(2, 0, 1)[None]
    with torch.inference_mode():
        wanted = network(torch.tensor(x, dtype=torch.float32)).softmax(1)[0].tolist()
    assert answer["probabilities"][0] == pytest.approx(wanted, abs=1e-6)
    assert answer["class"].tolist() == [CONFIG["classes"][int(np.argmax(wanted))]] * 2
    assert answer["probability"][1] == pytest.approx(max(wanted), abs=1e-6)


def test_model_is_ready_and_linked_to_its_run(logged):
    client, run_id, model_uri, *_ = logged
    model = client.get_logged_model(model_uri.removeprefix("models:/"))
    assert model.status.name == "READY"
    assert [out.model_id for out in client.get_run(run_id).outputs.model_outputs] == [model.model_id]


def test_model_holds_no_pickle_and_names_its_requirements(logged):
    client, _, model_uri, *_ = logged
    flavor = mlflow.models.Model.load(local_path(client, model_uri)).flavors["python_function"]
    assert "python_model" not in flavor
    assert flavor["model_code_path"].endswith("served_model.py")
    kept = Path(local_path(client, model_uri)) / "artifacts"
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "decoding.py", "networks.py", "weights.pt"]
    needs = mlflow.pyfunc.get_model_dependencies(local_path(client, model_uri))
    with open(needs) as file:
        assert {line.split("==")[0].strip() for line in file} >= {"torch", "torchvision", "mlflow"}


def test_model_loads_without_this_project(logged, image, tmp_path):
    client, _, model_uri, *_ = logged
    code = (
        "import sys, base64, mlflow, pandas as pd\n"
        "m = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "out = m.predict(pd.DataFrame({'image': [base64.b64decode(sys.argv[2])]}))\n"
        "assert 'tasks' not in sys.modules\n"
        "print(out.to_json(orient='records'))"
    )
    argv = [sys.executable, "-I", "-c", code, local_path(client, model_uri), base64.b64encode(image).decode()]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[0]["class"] in CONFIG["classes"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # its successor starts a server with an environment of its own
def test_images_come_as_base64_over_rest(logged, image):
    client, _, model_uri, *_ = logged
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(image).decode()]]}})
    answer = mlflow.models.validate_serving_input(local_path(client, model_uri), body)
    assert answer["class"][0] in CONFIG["classes"]


def test_logging_again_is_the_same_model(logged, image):
    client, run_id, model_uri, weights, _ = logged
    assert log_classifier(run_id, weights, CONFIG, image) == model_uri


def test_what_is_no_image_is_named_by_its_row(logged, image):
    client, _, model_uri, *_ = logged
    model = mlflow.pyfunc.load_model(local_path(client, model_uri))
    with pytest.raises(ValueError, match="found no image in row 1"):
        model.predict(pd.DataFrame({"image": [image, b"text"]}))


def test_no_images_give_no_rows(logged):
    client, _, model_uri, *_ = logged
    empty = pd.DataFrame({"image": pd.Series([], dtype=object)})
    model = mlflow.pyfunc.load_model(local_path(client, model_uri)).unwrap_python_model()
    assert list(model.predict(None, empty).columns) == ["class", "probability", "probabilities"]


def test_weights_that_do_not_fit_leave_no_model(logged, image, tmp_path):
    client, run_id, model_uri, *_ = logged
    torch.save({"x": torch.zeros(1)}, tmp_path / "bad.pt")
    with pytest.raises(TrackingError, match="do not make a model that predicts"):
        log_classifier(run_id, tmp_path / "bad.pt", CONFIG, image, name="other")
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment])
    assert [f"models:/{model.model_id}" for model in found] == [model_uri]


@pytest.fixture(scope="module")
def kept_networks(logged):
    """The code that is kept with a model and builds its network where it is served."""
    client, _, model_uri, *_ = logged
    return served_model.load_code(Path(local_path(client, model_uri)) / "artifacts" / "networks.py")


@pytest.mark.parametrize("arch", get_args(Architecture))
def test_every_network_is_served_as_it_was_trained(kept_networks, arch):
    with torch.device("meta"):
        trained = build_model(arch, 3, 64)
        served = kept_networks.build(arch, 3, 64)
    assert repr(served) == repr(trained)
    assert {k: v.shape for k, v in trained.state_dict().items()} == {k: v.shape for k, v in served.state_dict().items()}


def as_the_model_sees(content: bytes, size: int = 32) -> torch.Tensor:
    """Return (3, S, S) in [0, 1], of the served model."""
    model = served_model.ServedClassifier()
    model.decoding = decoding
    model.size, model.mean, model.std = size, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return model._tensor(content, 0)


@pytest.mark.parametrize("shape", [(20, 16), (40, 60), (20, 60), (32, 32)])
def test_an_image_is_sized_as_in_training(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    wanted = torch.from_numpy(resize_rgb(pixels, 32)).permute(2, 0, 1).float() / 255
    assert torch.equal(as_the_model_sees(content), wanted)


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SOFT = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (300, 400, 3), dtype=np.uint8), (0, 0), 5)
PICTURES = {
    "rgba.png": lambda path: Image.fromarray(np.dstack([SOFT, SOFT[..., 0]])).save(path),
    "grey with alpha.png": lambda path: Image.fromarray(np.dstack([SOFT[..., 0], SOFT[..., 1]])).save(path),
    "see-through palette.png": lambda path: Image.fromarray(SOFT).quantize(16).save(path, transparency=3),
    "grey.png": lambda path: Image.fromarray(SOFT[..., 0]).save(path),
    "16 bit grey.png": lambda path: cv2.imwrite(str(path), SOFT[..., 0].astype(np.uint16) * 251),
    "16 bit.png": lambda path: cv2.imwrite(str(path), SOFT.astype(np.uint16) * 251),
    "16 bit.tif": lambda path: cv2.imwrite(str(path), SOFT.astype(np.uint16) * 251),
    "cmyk.jpg": lambda path: Image.fromarray(SOFT).convert("CMYK").save(path),
    "grey.jpg": lambda path: Image.fromarray(SOFT[..., 0]).save(path),
    "large.jpg": lambda path: Image.fromarray(SOFT).save(path, quality=90),  # training decodes it smaller
    "turned.jpg": lambda path: Image.fromarray(SOFT).save(path, exif=rotated()),
    "turned.png": lambda path: Image.fromarray(SOFT).save(path, exif=rotated()),
    "see-through.webp": lambda path: Image.fromarray(np.dstack([SOFT, SOFT[..., 0]])).save(path),
}


def in_training(path):
    return SubsetImages([path], [None], ResizeCache(path.parent / "cache", 32), "disk").read(0)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_kind_looks_to_the_served_model_as_in_training(tmp_path, name):
    PICTURES[name](tmp_path / name)
    trained_on = torch.from_numpy(in_training(tmp_path / name)).permute(2, 0, 1).float() / 255
    assert torch.equal(as_the_model_sees((tmp_path / name).read_bytes()), trained_on)


@pytest.mark.parametrize("name", ["rgba.png", "16 bit grey.png"])
def test_a_stored_model_decodes_as_in_training(logged, tmp_path, name):
    client, _, model_uri, *_ = logged
    PICTURES[name](tmp_path / name)
    trained_on = cv2.imencode(".png", cv2.cvtColor(in_training(tmp_path / name), cv2.COLOR_RGB2BGR))[1].tobytes()
    both = pd.DataFrame({"image": [(tmp_path / name).read_bytes(), trained_on]})
    stored, wanted = mlflow.pyfunc.load_model(local_path(client, model_uri)).predict(both)["probabilities"]
    assert stored == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("content", [b"", None, "not base64!", b"GIF89a", 1.5])
def test_what_holds_no_picture_is_named_by_its_row(content):
    with pytest.raises(ValueError, match="found no image in row 0"):
        as_the_model_sees(content)
