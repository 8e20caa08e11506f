import json

import pytest
import torch
import transformers

from tasks.base.errors import ConfigError, WeightsError
from tasks.recognition.detector.networks import build
from tasks.recognition.detector.weights import model_config, start_weights
from tasks.recognition.params import DetectorParams
from tests.tasks.recognition.detector.test_networks import D_FINE


@pytest.fixture
def folder(tmp_path):
    """A folder of transformers with a tiny D-FINE of five classes."""
    torch.manual_seed(0)
    config = transformers.DFineConfig.from_dict({**D_FINE, "num_labels": 5})
    transformers.DFineForObjectDetection(config).save_pretrained(tmp_path / "d_fine")
    (tmp_path / "d_fine" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    return tmp_path / "d_fine"


def test_a_folder_of_transformers_is_started_from_with_a_new_head(folder):
    params = DetectorParams(network="d_fine", network_folder=folder, image_size=64, device="cpu")
    config = model_config(params, ["a", "b"])
    assert (config["mean"], config["std"]) == ([0, 0, 0], [1, 1, 1])
    model = build(json.loads(json.dumps(config)))
    (note,) = start_weights(model, params)
    assert "new are" in note
    original = transformers.DFineForObjectDetection.from_pretrained(folder).state_dict()
    mine = model.state_dict()
    same = [torch.equal(mine[f"network.{name}"], value) for name, value in original.items() if "backbone" in name]
    assert all(same)
    assert len(same) > 10
    with torch.inference_mode():
        assert {int(label) for label in model.eval().find(torch.rand(1, 3, 64, 64))[0]["labels"]} <= {0, 1}


def test_a_folder_of_another_model_is_refused(folder):
    params = DetectorParams(network="rf_detr", network_folder=folder, device="cpu")
    with pytest.raises(ConfigError, match="found the model_type 'd_fine', need rf_detr"):
        model_config(params, ["a"])


def test_a_damaged_file_of_weights_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"nothing of that kind")
    params = DetectorParams(network="d_fine", network_folder=folder, image_size=64, device="cpu")
    with pytest.raises(WeightsError, match="is no file of safetensors"):
        start_weights(build(model_config(params, ["a"])), params)


def test_without_weights_a_detector_starts_from_random_ones():
    params = DetectorParams(device="cpu", image_size=64)
    assert start_weights(build(model_config(params, ["a"])), params) == ["starts from random weights"]
