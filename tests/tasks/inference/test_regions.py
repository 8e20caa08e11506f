"""A detector's regions are cut out and named one by one, and what cannot be a detector is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from tasks.base.errors import ConfigError, ImageError, WeightsError
from tasks.inference.params import DetectParams, PredictParams
from tasks.inference.predictor import Predictor, Region
from tasks.inference.regions import answers_in_regions, classifying, cut, detecting, from_two_stages, load_detector
from tasks.inference.sources import PendingImage

CPU = torch.device("cpu")


class Redness(nn.Module):
    """Tells red images from others."""

    def forward(self, x):
        return torch.stack([x[:, 0].mean(dim=(1, 2)), x[:, 1:].mean(dim=(1, 2, 3))], 1)


def halves(rgb):
    """Propose the left and the right half of what is not black."""
    return [Region(0, 0, 0.5, 1, 0.9), Region(0.5, 0, 1, 1, 0.8)] if rgb.any() else []


def job(name, pixels):
    def load():
        if pixels is None:
            raise ImageError(f"damaged: {name}")
        return pixels

    return PendingImage(Path(name), None, load)


def test_every_region_is_named_by_itself():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20, 0] = 255
    picture[:, 20:, 1:] = 255
    todo = iter([job("a", picture), job("black", np.zeros((8, 8, 3), np.uint8)), job("bad", None)])
    found = list(answers_in_regions(todo, halves, classifying(Predictor(Redness(), CPU, "fp32"), 16, batch_size=1)))
    assert [[a.path for a in rows] for rows in found] == [["a", "a"], ["black"], ["bad"]]
    assert [a.logits.argmax() for a in found[0]] == [0, 1]
    assert [(a.number, a.size, a.region.score) for a in found[0]] == [(0, (20, 20), 0.9), (1, (20, 20), 0.8)]
    assert (found[1][0].logits, found[1][0].error, found[1][0].region) == (None, None, None)
    assert found[2][0].error == "damaged: bad"


def test_a_region_has_a_pixel_at_least():
    rgb = np.zeros((10, 20, 3), np.uint8)
    assert cut(rgb, Region(0.25, 0.5, 0.75, 1, 1)).shape == (5, 10, 3)
    assert cut(rgb, Region(1, 1, 1, 1, 1)).shape == (1, 1, 3)
    assert cut(rgb, Region(0, 0, 1, 1, 1)).shape == (10, 20, 3)


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("detector") / "ssd.pt"
    torch.save(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).state_dict(), path)
    return path


def test_a_detector_proposes_regions_inside_the_picture_the_best_first(detector_file):
    detector = load_detector(detector_file, CPU)
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    found = detecting(detector, CPU, DetectParams(min_score=0.01, max_regions=7))(rgb)
    assert len(found) == 7
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    assert all(0 <= r.left < r.right <= 1 and 0 <= r.top < r.bottom <= 1 for r in found)
    assert detecting(detector, CPU, DetectParams(min_score=1))(rgb) == []


def test_other_weights_are_no_detector(weights):
    with pytest.raises(WeightsError, match="found no head of ssdlite320_mobilenet_v3_large in"):
        load_detector(weights, CPU)


def write(path, **stages):
    path.write_text(json.dumps(stages))
    return DetectParams(config=path)


def test_rfuavs_json_names_both_stages(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model: resnet101\nclass_names: {x: 0, y: 1}\nimage_size: 640\ndevice: cuda\nweights: None\nval: E:\\valid\n"
    )
    detect = write(
        tmp_path / "two.json",
        detector={"weight_path": "d.pt"},
        classifier={"weight_path": "c.pth", "cfg": str(tmp_path / "c.yaml")},
        target_dir="pictures",
        save_dir="out",
    )
    params, detect = from_two_stages(PredictParams(device="cpu", image_size=320), detect)
    assert (params.weights, params.model, params.class_names) == ("c.pth", "resnet101", ("x", "y"))
    assert (params.device, params.image_size, params.save_path) == ("cpu", 320, Path("out"))
    assert detect.weights == "d.pt"


def test_the_json_counts_after_a_server_has_filled_in_every_field(tmp_path):
    (tmp_path / "c.yaml").write_text("model: resnet101\nclass_names: {x: 0, y: 1}\n")
    stage = {"weight_path": "c.pth", "cfg": str(tmp_path / "c.yaml")}
    detect = write(tmp_path / "two.json", detector={"weight_path": "d.pt"}, classifier=stage)
    whole = PredictParams.model_validate(PredictParams(device="cpu", batch_size=3).model_dump(mode="json"))
    params, _ = from_two_stages(whole, DetectParams.model_validate(detect.model_dump(mode="json")))
    assert (params.weights, params.model, params.class_names) == ("c.pth", "resnet101", ("x", "y"))
    assert (params.device, params.batch_size) == ("cpu", 3)


def test_without_a_json_nothing_changes():
    assert from_two_stages(PredictParams(), DetectParams()) == (PredictParams(), DetectParams())


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ({"detector": {"weight_path": "d.pt"}}, "found no classifier with a weight_path"),
        ({"classifier": {"weight_path": "c.pt"}}, "found no detector with a weight_path"),
        ({"detector": {"weight_path": 7}}, "found no detector with a weight_path, a text"),
        (
            {"detector": {"model_name": "yolov5", "weight_path": "d.pt"}, "classifier": {"weight_path": "c.pt"}},
            "found the detector 'yolov5' in .*, need ssdlite320",
        ),
    ],
)
def test_a_json_that_cannot_be_used_is_refused(tmp_path, stages, fault):
    with pytest.raises(ConfigError, match=fault):
        from_two_stages(PredictParams(), write(tmp_path / "two.json", **stages))


def test_torchvisions_ssdlite_finds_what_its_network_finds(tmp_path):
    torch.manual_seed(0)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    image = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    everything = DetectParams(min_score=0, max_regions=300)
    found = detecting(load_detector(tmp_path / "w.pt", CPU), CPU, everything)(image)
    with torch.inference_mode():
        row = network([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    assert found
    assert [one.score for one in found] == sorted(row["scores"].tolist(), reverse=True)[: len(found)]
    assert all(0 <= one.left < one.right <= 1 and 0 <= one.top < one.bottom <= 1 for one in found)
