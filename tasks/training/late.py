"""Metrics that must not delay a training: values still on the GPU, time spent waiting for data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


class Late:
    """Reads a value of a GPU some steps later, once its copy has arrived; of the CPU at once.

    Args:
        device: of the values.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._coming: tuple[Tensor, torch.cuda.Event] | None = None

    def exchange(self, value: Tensor) -> float:
        """Hand in a scalar and return the newest one that has arrived; 0 where none has yet."""
        if not self._on_gpu:
            return float(value)
        arrived = 0.0
        if self._coming is not None:
            copy, event = self._coming
            if not event.query():
                return arrived
            arrived = float(copy)
        copy = torch.empty((), dtype=value.dtype, pin_memory=True)
        copy.copy_(value.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._coming = copy, event
        return arrived


@dataclass(slots=True)
class Pace:
    """How fast an epoch is trained, and how much of the time goes into waiting for its data."""

    n_images: int = 0
    seconds: float = 0.0  # from the first batch asked for to the last one trained
    waiting: float = 0.0  # seconds

    def waited(
        self, batches: Iterator[tuple[Tensor, Tensor]], clock: Callable[[], float]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, counting."""
        started = asked = clock()
        for images, labels in batches:
            self.waiting += clock() - asked
            yield images, labels
            self.n_images += len(labels)
            asked = clock()
            self.seconds = asked - started

    @property
    def images_per_s(self) -> float | None:
        """Return images trained on a second; None where nothing was."""
        return self.n_images / self.seconds if self.seconds else None

    @property
    def wait_share(self) -> float | None:
        """Return the share of the time that was waited for data, in [0, 1]; None where nothing was trained."""
        return min(1.0, self.waiting / self.seconds) if self.seconds else None
