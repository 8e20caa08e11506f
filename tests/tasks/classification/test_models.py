"""All models and weights from files."""

import pickle
import re
from typing import get_args

import pytest
import torch

from tasks.base.errors import WeightsError
from tasks.classification.models import build_model, head_classes, load_weights, takes_one_image
from tasks.classification.networks import head_name
from tasks.classification.params import Architecture
from tasks.training.state_dicts import pretrained_state, read_state_dict


@pytest.mark.parametrize("arch", get_args(Architecture))
def test_every_model_has_a_head_of_the_size_asked_for(arch):
    with torch.device("meta"):  # shapes without memory: the large ones have 300 million weights
        model = build_model(arch, 5, 64)
    assert head_classes(model.state_dict(), arch) == 5
    assert any(name.startswith(head_name(arch) + ".") for name in model.state_dict())


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "vit_b_32", "swin_v2_t"])
def test_one_model_of_each_family_answers(arch):
    with torch.inference_mode():
        assert build_model(arch, 3, 32).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("arch", "image_size", "can"),
    [
        ("resnet18", 32, False),
        ("resnet50", 33, True),
        ("mobilenet_v3_large", 32, False),
        ("mobilenet_v3_small", 64, True),
        ("vit_b_32", 32, True),
        ("swin_v2_t", 32, True),
    ],
)
def test_one_image_is_enough_unless_batch_norm_sees_a_single_pixel(arch, image_size, can):
    before = torch.get_rng_state()
    assert takes_one_image(arch, 3, image_size) == can
    assert torch.equal(torch.get_rng_state(), before)


def test_mobilenet_has_rfuavs_head():
    head = build_model("mobilenet_v3_small", 7).classifier
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert (head[0].out_features, head[2].p, head[3].out_features) == (512, 0.2, 7)


def test_a_size_a_transformer_cannot_cut_is_an_error():
    with pytest.raises(WeightsError, match=r"image_size 100 .* multiple of 16"):
        build_model("vit_b_16", 2, 100)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"trainer": {"model": s, "ema": None}, "history": []},
    ],
    ids=["plain", "wrapped", "data parallel", "our checkpoint"],
)
def test_weights_are_read_plain_wrapped_and_from_data_parallel(tmp_path, wrap):
    model = build_model("resnet18", 3)
    torch.save(wrap(model.state_dict()), tmp_path / "w.pth")
    other = build_model("resnet18", 3)
    assert load_weights(other, "resnet18", read_state_dict(tmp_path / "w.pth"), "w.pth") == []
    assert torch.equal(other.fc.weight, model.fc.weight)


def test_a_head_of_another_size_starts_new_and_is_said_so():
    model, other = build_model("resnet18", 3), build_model("resnet18", 5)
    fresh = other.fc.weight.clone()
    notes = load_weights(other, "resnet18", model.state_dict(), "w.pth")
    assert notes == ["head of w.pth has 3 classes, need 5: the head starts new"]
    assert torch.equal(other.fc.weight, fresh)
    assert torch.equal(other.conv1.weight, model.conv1.weight)


def test_imagenet_mobilenet_weights_fit_though_their_head_is_built_otherwise():
    import torchvision

    state = torchvision.models.mobilenet_v3_small().state_dict()
    notes = load_weights(build_model("mobilenet_v3_small", 5), "mobilenet_v3_small", state, "imagenet")
    assert notes == ["head of imagenet has 1000 classes, need 5: the head starts new"]


def test_a_transformer_takes_weights_of_another_image_size():
    state = build_model("vit_b_32", 3, 64).state_dict()
    assert load_weights(build_model("vit_b_32", 3, 96), "vit_b_32", state, "w.pth") == []


def test_weights_of_another_architecture_name_the_first_misfit():
    with pytest.raises(WeightsError, match=r"w\.pth do not fit resnet18: .* tensors, first conv1\.weight missing"):
        load_weights(build_model("resnet18", 3), "resnet18", build_model("mobilenet_v3_small", 3).state_dict(), "w.pth")


class Evil:
    def __reduce__(self):
        return (print, ("this code must never run",))


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps(Evil())], ids=["empty", "text", "code"])
def test_what_is_no_file_of_weights_is_refused(tmp_path, content, capsys):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"cannot read weights from .*w\.pth"):
        read_state_dict(tmp_path / "w.pth")
    assert "never run" not in capsys.readouterr().out


def test_pickled_code_in_a_file_of_torch_is_refused(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="without pickled code"):
        read_state_dict(tmp_path / "w.pth")
    assert "never run" not in capsys.readouterr().out


def test_missing_weights_name_the_path(tmp_path):
    with pytest.raises(WeightsError, match=r"found no file of weights at .*w\.pth"):
        read_state_dict(tmp_path / "w.pth")


def test_pretrained_weights_without_a_network_name_the_file_and_its_place(tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level("INFO", "tasks")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens: refused at once
    with pytest.raises(WeightsError, match=r"put resnet18-f37072fd\.pth into .*checkpoints, or set pretrained=false"):
        pretrained_state("resnet18")
    assert capfd.readouterr() == ("", "")  # what a run prints is for who started it
    assert "fetches the pretrained weights https://" in caplog.text


def test_every_file_of_pretrained_weights_ends_with_its_digest():
    import torchvision

    for arch in get_args(Architecture):
        name = str(torchvision.models.get_model_weights(arch).DEFAULT.url).rsplit("/", 1)[1]
        assert re.fullmatch(r".*-[0-9a-f]{8}\.pth", name), name


def test_pretrained_weights_in_the_cache_need_no_network(tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    torch.save(build_model("resnet18", 1000).state_dict(), folder / name)
    state, found = pretrained_state("resnet18")
    assert (found, len(state["fc.bias"])) == (name, 1000)
