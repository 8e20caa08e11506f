import pytest
import torch
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from tasks.base.errors import WeightsError
from tasks.recognition.detector.apply import load_detector
from tasks.recognition.detector.networks import build
from tasks.recognition.detector.weights import load_weights

CONFIG = {"network": "fcos_small", "classes": ["a", "b"], "image_size": 64, "threshold": 0.3}


def test_weights_of_other_parts_are_refused(tmp_path):
    torch.save(build(CONFIG).state_dict(), tmp_path / "w.pt")
    assert load_detector(tmp_path / "w.pt", CONFIG, torch.device("cpu"))([]) == []
    with pytest.raises(WeightsError, match="weights do not fit fcos_small of 3 parts"):
        load_detector(tmp_path / "w.pt", {**CONFIG, "classes": ["a", "b", "c"]}, torch.device("cpu"))


def test_a_start_from_other_classes_leaves_the_head_new_and_says_so():
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    model = build({**CONFIG, "network": "ssdlite320_mobilenet_v3_large"})
    (note,) = load_weights(model, network.state_dict(), "coco.pth")
    assert "new are head.classification_head" in note
    name = "backbone.features.0.0.0.weight"
    assert torch.equal(model.state_dict()[f"network.{name}"], network.state_dict()[name])


def test_a_start_from_a_classifier_takes_its_backbone():
    for network, classifier in (
        ("fasterrcnn_mobilenet_v3_large_320_fpn", mobilenet_v3_large()),
        ("fasterrcnn_resnet50_fpn_v2", resnet50()),
    ):
        model = build({**CONFIG, "network": network})
        (note,) = load_weights(model, classifier.state_dict(), "imagenet.pth")
        assert note.startswith("starts from imagenet.pth")
        first = next(iter(classifier.state_dict().values()))
        body = [value for name, value in model.state_dict().items() if "backbone.body" in name]
        assert torch.equal(body[0], first)


def test_weights_of_another_network_are_refused():
    model = build(CONFIG)
    with pytest.raises(WeightsError, match="need at least half: weights of another network in x.pt"):
        load_weights(model, {"fc.weight": torch.zeros(3, 3)}, "x.pt")
