"""A detector is trained, graded and used where all that is computed lies apart from the CPU, with the same result."""

import numpy as np
import pytest
import torch

from tasks.recognition.detector.apply import load_detector
from tasks.recognition.detector.training.session import DetectorSession
from tasks.recognition.params import DetectorParams
from tests.far_device import FAR, Far
from tests.tasks.recognition.detector.conftest import scene

CPU = torch.device("cpu")


def found_by(device, dataset, folder):
    small = {"image_size": 64, "window": 32, "batch_size": 8, "num_epochs": 2, "ema_decay": 0.9, "n_workers": 1}
    params = DetectorParams(device="cpu", precision="fp32", **small)
    session = DetectorSession(dataset, folder, params, device, cache=folder / "cache", clock_ms=lambda: 0)
    list(session.run())
    config = {"network": "fcos_small", "classes": ["disc", "square"], "image_size": 64, "threshold": 0.3}
    rng = np.random.default_rng(5)
    images = [scene(rng)[0] for _ in range(3)]
    return session.history, load_detector(folder / "best.pt", config, device)(images)


def test_a_detector_of_another_device_is_that_of_the_cpu(dataset, tmp_path):
    with Far():
        history, far = found_by(FAR, dataset, tmp_path / "far")
    others, near = found_by(CPU, dataset, tmp_path / "near")
    assert [row.metrics.losses for row in history] == [pytest.approx(row.metrics.losses, abs=1e-6) for row in others]
    assert [len(row) for row in far] == [len(row) for row in near]
    for mine, theirs in zip(far, near, strict=True):
        assert [each.score for each in mine] == pytest.approx([each.score for each in theirs], abs=1e-4)
