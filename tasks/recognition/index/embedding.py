"""Turns views into vectors, batch by batch."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_pools.stopping import look
from tasks.base.progress import Steps
from tasks.images.decoding import resize_rgb
from tasks.recognition.index.networks import Embedder
from tasks.recognition.index.views import Views
from tasks.training.batches import Batches, ahead
from tasks.training.pieces import OneShape, Pieces
from tasks.training.precision import Precision, autocast

Floats = NDArray[np.float32]
_BATCH = 128


@torch.inference_mode()
def embedding(
    model: Embedder,
    read: Callable[[int], NDArray[np.uint8]],
    n_images: int,
    device: torch.device,
    precision: Precision = "fp32",
    *,
    n_workers: int = 0,
) -> Steps[Floats]:
    """Yield (done, total); return (N, D) float32 vectors of length 1.

    Args:
        model: on `device`.
        read: number -> (S, S, 3) uint8 RGB, all of one size.
        n_images: N.
        device, precision: to compute on and in.
        n_workers: threads that read; 0: as many as cores.

    Raises:
        Interrupted: a signal has come.
    """
    model.eval()
    batches = Batches(read, [0] * n_images, _BATCH, n_workers=n_workers, pin=device.type == "cuda", join_last=False)
    padded, pieces = OneShape(device), Pieces(device)
    found = np.zeros((n_images, model.dimension), dtype=np.float32)
    done = 0
    for images, labels in ahead(batches.epoch(0) if n_images else iter(()), device):
        look()
        whole = padded(images)
        vectors = pieces.run(partial(_forward, model, whole, device, precision), len(whole))[: len(labels)]
        found[done : done + len(labels)] = vectors.cpu().numpy()
        done += len(labels)
        yield done, n_images
    return found


def _forward(
    model: Embedder, images: torch.Tensor, device: torch.device, precision: Precision, n_pieces: int
) -> torch.Tensor:
    with autocast(device, precision):
        return torch.cat([model(piece) for piece in images.chunk(n_pieces)])


def view_reader(views: Views, size: int) -> Callable[[int], NDArray[np.uint8]]:
    """Return a function: place -> the view as the network sees it, (size, size, 3)."""
    return lambda place: resize_rgb(views.read(place), size)
