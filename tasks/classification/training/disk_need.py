"""Estimates from its parameters how much room the training of a classifier takes on the disk."""

from collections.abc import Mapping

from gpu_pools.placement.disk import Need
from tasks.classification.params import Architecture, TrainParams
from tasks.run.disk_need import training_need

_WEIGHTS_MB: Mapping[Architecture, float] = {
    "resnet18": 44.8,
    "resnet34": 85.3,
    "resnet50": 94.5,
    "resnet101": 170.7,
    "resnet152": 233.4,
    "vit_b_16": 343.3,
    "vit_b_32": 349.9,
    "vit_l_16": 1213.3,
    "vit_l_32": 1222.2,
    "swin_v2_t": 110.8,
    "swin_v2_s": 196.8,
    "swin_v2_b": 348.6,
    "mobilenet_v3_large": 14.0,
    "mobilenet_v3_small": 5.0,
}
"""Of the networks as this project builds them: known without PyTorch, which takes seconds to import."""


def classifier_need(params: TrainParams) -> Need:
    """Return the bytes that the training of a classifier takes."""
    weights = int(_WEIGHTS_MB[params.model] * 10**6)
    return training_need(weights, n_moments=params.n_moments, averaged=params.ema_decay > 0, n_kept=params.n_kept)
