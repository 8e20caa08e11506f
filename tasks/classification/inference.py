"""What a model answers to batches, in pieces where the device's memory asks for it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gpu_pools.stopping import look
from tasks.classification.data import Batches, Normalise, ahead
from tasks.classification.precision import Precision, autocast


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Batches, device: torch.device, precision: Precision
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits (B, n_classes) float32, labels (B,) int64), both on the device, in the order of the batches.

    Raises:
        Interrupted: a signal has come.
    """
    model.eval()
    normalise = Normalise(device)
    n_chunks = 1
    for images, labels in ahead(batches.epoch(0), device):
        look()
        logits = None
        while logits is None:
            try:
                with autocast(device, precision):
                    pieces = [model(normalise(piece)).float() for piece in images.chunk(n_chunks)]
                logits = torch.cat(pieces)
            except RuntimeError as exc:
                if not ran_out_of_memory(exc) or n_chunks >= len(images):
                    raise
                n_chunks *= 2
        yield logits, labels


def ran_out_of_memory(exc: RuntimeError) -> bool:
    """Return whether the device had no memory left; cuDNN and cuBLAS say so in errors of their own."""
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    return any(word in str(exc) for word in ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"))
