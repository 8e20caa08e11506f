"""An index is trained, built and used where all that is computed lies apart from the CPU, with the same result."""

import json

import numpy as np
import torch

from tasks.recognition.index.apply import load_index
from tasks.recognition.index.building import building
from tasks.recognition.index.training.session import IndexSession
from tests.far_device import FAR, Far


def made(device, dataset, params, folder):
    session = IndexSession(dataset, folder, params, device, cache=folder / "cache", clock_ms=lambda: 0)
    list(session.run())
    list(building(session.views, folder, params, device, lambda text: None))
    return json.loads((folder / "index" / "config.json").read_text())


def test_an_index_of_another_device_is_that_of_the_cpu(dataset, params, tmp_path):
    short = params.model_copy(update={"num_epochs": 2})
    with Far():
        far = made(FAR, dataset, short, tmp_path / "far")
        rng = np.random.default_rng(0)
        crops = [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(3)]
        there = load_index(tmp_path / "far" / "index", FAR).vectors(crops)
    near = made(torch.device("cpu"), dataset, short, tmp_path / "near")
    assert far == near
    here = load_index(tmp_path / "near" / "index", torch.device("cpu")).vectors(crops)
    np.testing.assert_allclose(there, here, atol=1e-6)
