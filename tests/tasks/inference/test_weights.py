"""Weights and classes are held against each other, and nothing in a file of weights is ever run."""

import json
import pickle

import pytest
import torch

from tasks.base.errors import ConfigError, WeightsError
from tasks.inference.params import PredictParams
from tasks.inference.weights import check_head, from_file, load


class Code:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_of_ours_needs_nothing_but_its_configuration(weights):
    files = from_file(weights, PredictParams())
    check_head(files)
    model = load(files, torch.device("cpu"))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert not model.training


def test_a_plain_state_dict_needs_model_and_classes(weights, tmp_path):
    plain = tmp_path / "plain.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, plain)
    with pytest.raises(ConfigError, match=r"need predict\.model and predict\.class_names"):
        from_file(plain, PredictParams())
    given = PredictParams(model="mobilenet_v3_small", class_names=("x", "y", "z"), image_size=64)
    files = from_file(plain, given)
    assert (files.config["classes"], files.config["image_size"]) == (["x", "y", "z"], 64)
    check_head(files)


def test_a_head_of_another_size_is_refused_with_both_numbers(weights, tmp_path):
    config = json.loads(weights.with_name("config.json").read_text())
    (tmp_path / "best.pt").write_bytes(weights.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "classes": ["a", "b", "c", "d"]}))
    with pytest.raises(WeightsError, match="tells 3 classes apart, the configuration names 4"):
        check_head(from_file(tmp_path / "best.pt", PredictParams()))


def test_num_classes_is_checked(weights):
    with pytest.raises(ConfigError, match="found num_classes=5 and 3 classes"):
        from_file(weights, PredictParams(num_classes=5))


def test_parameters_that_contradict_the_configuration_are_refused(weights):
    with pytest.raises(ConfigError, match="found model=resnet18, but .*mobilenet_v3_small"):
        from_file(weights, PredictParams(model="resnet18"))
    with pytest.raises(ConfigError, match="was trained on"):
        from_file(weights, PredictParams(class_names=("calm", "loud", "new")))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match="found no file of weights at .*absent"):
        from_file(tmp_path / "absent.pt", PredictParams())


def test_code_in_a_file_of_weights_is_not_run(tmp_path):
    bad = tmp_path / "bad.pt"
    bad.write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    torch.save({"fc.weight": Code(tmp_path / "ran")}, tmp_path / "worse.pt")
    for path in (bad, tmp_path / "worse.pt"):
        with pytest.raises(WeightsError, match="without pickled code"):
            check_head(from_file(path, PredictParams(model="resnet18", class_names=("a", "b"))))
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_architecture_are_refused(weights, tmp_path):
    torch.save(torch.load(weights, weights_only=True), tmp_path / "w.pt")
    given = PredictParams(model="resnet18", class_names=("a", "b", "c"))
    with pytest.raises(WeightsError, match="found no head of a resnet18"):
        check_head(from_file(tmp_path / "w.pt", given))
