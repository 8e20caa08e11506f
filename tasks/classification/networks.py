"""Builds torchvision's networks with heads of the size of the data; the only module that knows them.

A copy of this file is kept with every model in MLflow and used there, so it imports nothing of this project.
"""

from typing import cast

import torchvision
from torch import nn

HEADS: dict[str, str] = {
    "resnet": "fc",
    "vit": "heads.head",
    "swin": "head",
    "mobilenet": "classifier",
}
"""Family -> the sub-module that is replaced by one of the size of the data."""


def head_name(arch: str) -> str:
    """Return the name of the head of `arch`, as in its state dict."""
    return HEADS[arch.split("_")[0].rstrip("0123456789")]


def build(arch: str, n_classes: int, image_size: int) -> nn.Module:
    """Return a freshly initialised torchvision model with a head for `n_classes`.

    Vision transformers are built for `image_size`, so their position embedding has its length; the others take any.
    The head of MobileNetV3 is RFUAV's: Linear(in, 512), ReLU, Dropout(0.2), Linear(512, classes).
    """
    extra = {"image_size": image_size} if arch.startswith("vit") else {}
    model = cast(nn.Module, torchvision.models.get_model(arch, weights=None, **extra))
    parent, _, leaf = head_name(arch).rpartition(".")
    owner = model.get_submodule(parent)
    if arch.startswith("mobilenet"):
        first = cast(nn.Linear, cast(nn.Sequential, owner.classifier)[0])
        head: nn.Module = nn.Sequential(
            nn.Linear(first.in_features, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, n_classes)
        )
    else:
        head = nn.Linear(cast(nn.Linear, getattr(owner, leaf)).in_features, n_classes)
    setattr(owner, leaf, head)
    return model
