"""A small network learns to read handwritten digits: plain PyTorch, which knows nothing of the yard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


def fit(
    n_epochs: int, batch_size: int, learning_rate: float, seed: int, device: torch.device, checkpoint: Path
) -> Iterator[tuple[int, dict[str, float], dict[str, Any]]]:
    """Train, yielding after each epoch its number, its metrics, and the state to go on from."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32, device=device)  # (1797, 64) in [0, 1]
    labels = torch.tensor(digits, device=device)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    done = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["epoch"]
    for epoch in range(done + 1, n_epochs + 1):
        # From seed and epoch alone: a training that goes on sees the batches that it would have seen.
        order = torch.randperm(1500, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for batch in order.split(batch_size):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            right = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean()
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        yield epoch, {"loss/train": loss.item(), "accuracy/test": right.item()}, state
