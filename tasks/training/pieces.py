"""Runs batches in smaller pieces where the device lacks memory, and pads them to one shape where others cost."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.training.batches import batch_indices

R = TypeVar("R")


def shapes_cost(device: torch.device) -> bool:
    """Return whether a batch of another size is dear: a GPU chooses kernels and lays out memory for every new shape.

    A CPU computes each image it is given, those of the padding too.
    """
    return device.type == "cuda"


class OneShape:
    """Pads batches to the largest so far, where another shape is dear; whoever uses it leaves the added rows out.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._pads = shapes_cost(device)
        self._n = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, 3, S, S), the B images given and black ones after them; N is B where nothing is padded."""
        self._n = max(self._n, len(images))
        n_missing = self._n - len(images)
        return F.pad(images, (0, 0, 0, 0, 0, 0, 0, n_missing)) if self._pads and n_missing else images


class Pieces:
    """Into how many pieces a batch is cut: twice as many from now on, whenever the device's memory does not hold one.

    Args:
        device: of the model.
        n: pieces to begin with.
    """

    def __init__(self, device: torch.device, n: int = 1) -> None:
        self.device, self.n = device, n

    def run(self, attempt: Callable[[int], R], n_images: int, halved: Callable[[], None] = lambda: None) -> R:
        """Return what an attempt with a number of pieces gives, with more of them as long as memory runs out.

        Args:
            attempt: takes the number of pieces.
            n_images: of the batch; more pieces there are not.
            halved: called before each further attempt.

        Raises:
            RuntimeError: memory does not hold one image, or what the attempt raises for another reason.
        """
        while True:
            try:
                return attempt(self.n)
            except RuntimeError as exc:
                if not ran_out_of_memory(exc) or self.n >= n_images:
                    raise
                self.n *= 2
            # Outside the except block, because the traceback keeps the tensors of the attempt alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            halved()


def parts_of(n: int, size: int) -> list[slice]:
    """Return pieces of n images, of at most `size` but for a left-over; one that is empty where there is no image."""
    pieces = batch_indices(n, size, range(n)) if n else []
    return [slice(int(piece[0]), int(piece[-1]) + 1) for piece in pieces] or [slice(0, 0)]


def ran_out_of_memory(exc: RuntimeError) -> bool:
    """Return whether the device had no memory left; cuDNN and cuBLAS say so in errors of their own."""
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    return any(word in str(exc) for word in ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"))
