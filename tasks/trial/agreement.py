"""Compares loss and gradients of a training step with float64 on the CPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.classification.models import build_model
from tasks.classification.params import TrainParams
from tasks.classification.training.train import Trainer
from tasks.training.batches import MEAN, STD
from tasks.trial.plain import N_CLASSES
from tasks.trial.report import CheckResult, Place, checked

LOSS_OFF, GRADIENT_OFF = 1e-5, 2e-4
"""Relative. In float32 ResNet-18 is some 1e-7 and 1e-5 off, more where a ReLU falls on the other side of 0; TF32,
or a kernel that is wrong, is beyond."""

_SIDE, _BATCH = 64, 8


def gradients(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Compare one step of ResNet-18 on the device, TF32 off, with float64."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (_BATCH, 3, _SIDE, _SIDE), dtype=np.uint8))
    labels = torch.arange(_BATCH) % N_CLASSES
    torch.manual_seed(0)
    model = build_model("resnet18", N_CLASSES, _SIDE)
    right = in_float64(model, images, labels)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        found = by_our_step(model, images, labels, torch.device(where.kind))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    yield agreement_row(found, right)


def in_float64(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, list[Tensor]]:
    """Return loss and gradients on the CPU; the model, float32, is left as it was."""
    twin = build_model("resnet18", N_CLASSES, images.shape[-1])
    twin.load_state_dict(model.state_dict())
    twin.double().train()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    loss = F.cross_entropy(twin((images.double() / 255 - mean) / std), labels)
    loss.backward()
    return float(loss.detach()), [_gradient(parameter) for parameter in twin.parameters()]


def by_our_step(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> tuple[float, list[Tensor]]:
    """Return loss and gradients of the training's own step in float32."""
    params = TrainParams(model="resnet18", pretrained=False, batch_size=len(labels), image_size=_SIDE, precision="fp32")
    trainer = Trainer(model, N_CLASSES, params, device, "fp32")
    trainer.model.train()
    trainer._backward([(images.to(device), labels.to(device))], [len(labels)], steps_per_epoch=1)
    loss = float(trainer._sums[0]) / len(labels)
    return loss, [_gradient(parameter).cpu() for parameter in trainer.model.parameters()]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "the loss depends on every parameter"
    return parameter.grad


def agreement_row(found: tuple[float, list[Tensor]], right: tuple[float, list[Tensor]]) -> CheckResult:
    """Return the row of two losses with their gradients, the second in float64."""
    loss_off = abs(found[0] - right[0]) / abs(right[0])
    off = max(relative(one, other) for one, other in zip(found[1], right[1], strict=True))
    good = loss_off <= LOSS_OFF and off <= GRADIENT_OFF  # NaN is neither
    figure = (
        f"of ResNet-18 in fp32 from float64: loss {loss_off:.1e} off (at most {LOSS_OFF:.0e}), "
        f"gradients {off:.1e} (at most {GRADIENT_OFF:.0e})"
    )
    todo = "this device does not compute what it should: try another driver or another version of torch"
    return checked("loss and gradients", good, figure, todo, loss_off=loss_off, gradients_off=off)


def relative(one: Tensor, other: Tensor) -> float:
    """Return how far a tensor is from another one, as a share of the other's length."""
    return float((one.double().cpu() - other.double().cpu()).norm() / other.double().norm().clamp(min=1e-300))
