"""Backbones of every kind give vectors of length one, and files that do not fit are refused."""

import json

import pytest
import torch

from tasks.base.errors import WeightsError
from tasks.recognition.index.models import load_backbone, new_embedder, read_transformers
from tasks.recognition.index.networks import Edges, build

PIXELS = {"quarter_turns": True, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}


@pytest.mark.parametrize(
    ("backbone", "n_features"),
    [("small", 256), ("resnet18", 512), ("mobilenet_v3_small", 576), ("mobilenet_v3_large", 960)],
)
@pytest.mark.parametrize("dimension", [16, None])
def test_backbones_give_vectors_of_length_one(backbone, n_features, dimension):
    embedder = build({"backbone": backbone, "dimension": dimension, **PIXELS}).eval()
    vectors = embedder(torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8))
    assert vectors.shape == (3, dimension or n_features)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_edges_are_told_by_their_direction_not_by_light():
    grey = torch.rand(2, 1, 31, 27, generator=torch.Generator().manual_seed(0))
    seen = Edges()(grey)
    assert seen.shape == (2, 9, 31, 27)
    assert torch.allclose(Edges()(4 * grey - 1), seen, atol=0.02)
    # Turned by a quarter, the image has the same edges in directions two further on.
    turned = Edges()(torch.rot90(grey, -1, (2, 3)))
    assert torch.allclose(turned[:, 1:], torch.rot90(seen[:, 1:].roll(2, 1), -1, (2, 3)), atol=1e-4)


def test_weights_of_torchvision_are_taken_without_their_head(tmp_path, params):
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    some = params.model_copy(update={"backbone": "resnet18", "weight_path": tmp_path / "w.pt", "train": False})
    embedder, config, notes = new_embedder(some)
    assert config["dimension"] is None
    assert torch.equal(embedder.backbone.conv1.weight, network.conv1.weight)
    assert str(tmp_path / "w.pt") in notes[0]


def test_weights_of_another_network_are_refused():
    small, other = (build({"backbone": name, "dimension": 8, **PIXELS}) for name in ("small", "resnet18"))
    with pytest.raises(WeightsError, match="do not fit the backbone"):
        load_backbone(small, other.state_dict(), "other.pt")


def test_a_folder_of_transformers_gives_its_features(dino):
    embedder, config = read_transformers(dino)
    assert config["mean"] == [0.5, 0.4, 0.3]
    images = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    again = build(json.loads(json.dumps(config)))
    again.load_state_dict(embedder.state_dict())
    with torch.inference_mode():
        vectors = embedder.eval()(images)
        assert torch.equal(vectors, again.eval()(images))
    assert vectors.shape == (2, 32)


def test_code_in_a_folder_of_transformers_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')\n")
    described = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.A", "AutoModel": "evil.B"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="found no model of transformers"):
        read_transformers(tmp_path)


def test_weights_that_are_pickled_are_not_read(dino, tmp_path):
    (tmp_path / "config.json").write_bytes((dino / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_transformers(tmp_path)
