"""A plain training loop on random tensors, which ours is compared with."""

import time

import torch
import torchvision
from torch import Tensor, nn

from tasks.training.precision import Precision, autocast

N_CLASSES = 10


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PlainLoop:
    """Autocast, cross entropy, fused Adam, and nothing else.

    Args:
        arch: a model of torchvision.
        batch: images.
        side: of an image, pixels.
        device: to train on.
        precision: of the forward pass.
    """

    def __init__(self, arch: str, batch: int, side: int, device: torch.device, precision: Precision) -> None:
        extra = {"image_size": side} if arch.startswith("vit") else {}
        model: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=N_CLASSES, **extra)
        self._model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-4, fused=True)
        images = torch.randn(batch, 3, side, side, device=device)
        self._images: Tensor = images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.randint(0, N_CLASSES, (batch,), device=device)
        self._device, self._precision = device, precision

    def run(self, steps: int) -> float:
        """Take steps; return the seconds, the GPU's work included."""
        wait(self._device)
        begun = time.perf_counter()
        for _ in range(steps):
            with autocast(self._device, self._precision):
                loss = nn.functional.cross_entropy(self._model(self._images), self._labels)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        wait(self._device)
        return time.perf_counter() - begun
