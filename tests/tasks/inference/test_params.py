"""RFUAV's configuration files name a model for inference as well, without any training paths."""

import pytest
from pydantic import ValidationError

from tasks.base.config import read_parameters
from tasks.images.params import PrepareParams
from tasks.inference.params import PredictParams, from_training


def test_a_configuration_of_rfuav_says_what_inference_needs(tmp_path):
    path = tmp_path / "sample.yaml"
    path.write_text(
        "model: resnet152\nweights: best.pth\nnum_classes: 2\nclass_names: {Mini2: 1, Avata: 0}\ndevice: 'cuda:1'\n"
        "image_size: (224, 224)\nnum_epochs: 100\nshuffle: true\nlr: 1e-4\noptimizer: None\nsave_path: out\n"
        "source_path: pictures\npriority: 3\n"
    )
    given = from_training(read_parameters(path))
    params = PredictParams(**given.pop("predict"))
    assert given == {"data": "pictures"}
    assert (params.model, params.weights, params.num_classes) == ("resnet152", "best.pth", 2)
    assert (params.class_names, params.device, params.image_size) == (("Avata", "Mini2"), "cuda:1", 224)


def test_no_value_in_a_training_file_leaves_the_default():
    given = from_training({"train": {"weight_path": "None", "train_path": None, "device": "cpu"}})
    assert given == {"predict": {"device": "cpu"}}


def test_what_is_said_for_inference_wins():
    given = from_training({"train": {"device": "cuda", "model": "resnet18"}, "predict": {"device": "cpu"}})
    assert given == {"predict": {"device": "cpu", "model": "resnet18"}}


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ValidationError, match="device"):
        PredictParams(device=device)


def test_a_misspelt_name_is_refused():
    with pytest.raises(ValidationError, match="max_sides"):
        PrepareParams(max_sides=3)
