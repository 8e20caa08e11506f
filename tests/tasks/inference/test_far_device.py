"""A prediction computes where all its tensors lie apart from the CPU, with the same result."""

import numpy as np
import torch

from tasks.classification.models import build_model
from tasks.inference.predictor import Predictor, stacked
from tests.far_device import FAR, Far


def test_a_prediction_of_another_device_is_that_of_the_cpu():
    torch.manual_seed(0)
    model = build_model("resnet18", 3, 32).eval()
    rng = np.random.default_rng(0)
    images = stacked([rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(5)])
    near = Predictor(model, torch.device("cpu"), "fp32")(images)
    with Far() as far:
        there = Predictor(model.to(FAR), FAR, "fp32")
        far.clear()
        np.testing.assert_allclose(there(images), near, atol=1e-6)
        assert far.waits == {"_to_copy from the device": 1}  # the answers
