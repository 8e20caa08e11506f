"""Finds parts in images with trained weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.recognition.detector.networks import Detector as Network
from tasks.recognition.detector.squaring import squared
from tasks.recognition.detector.weights import load_detector_weights
from tasks.training.pieces import Pieces

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Found:
    """A part in an image; places are shares of width and height, from the top left corner."""

    left: float
    top: float
    right: float
    bottom: float
    score: float  # in [0, 1]
    name: str


class Detector:
    """Finds parts.

    Args:
        network: on its device, ready to find.
        names: of the parts.
        size: S, pixels on a side of what it sees.
        threshold: the score from which on a part should be taken for found, measured on scenes for validation.
        device: of the network.
    """

    def __init__(
        self, network: Network, names: Sequence[str], size: int, threshold: float, device: torch.device
    ) -> None:
        self.names, self.threshold = list(names), threshold
        self._network, self._size, self._device = network, size, device
        self._pieces = Pieces(device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Rgb]) -> list[list[Found]]:
        """Return what is found on each image (H, W, 3), the surest first, also what is below the threshold.

        Args:
            images: RGB, of any sizes.
        """
        if not images:
            return []
        squares = np.stack([squared(image, self._size) for image in images])
        pixels = torch.from_numpy(squares).permute(0, 3, 1, 2)
        rows = self._pieces.run(partial(self._rows, pixels), len(images))
        return [self._found(row, image, self._size) for row, image in zip(rows, images, strict=True)]

    def _rows(self, pixels: Tensor, n_pieces: int) -> list[dict[str, Tensor]]:
        pieces = pixels.chunk(n_pieces)
        return [row for piece in pieces for row in self._network.find(piece.to(self._device).float() / 255)]

    def _found(self, row: Mapping[str, Tensor], image: Rgb, size: int) -> list[Found]:
        """Return boxes, which are in pixels of the square, as shares of the image in its top left corner."""
        height, width = image.shape[:2]
        longer = max(height, width) / size
        sides = torch.tensor([longer / width, longer / height] * 2)
        return self._rows_as_found(row, sides)

    def _rows_as_found(self, row: Mapping[str, Tensor], sides: Tensor) -> list[Found]:
        shares = (row["boxes"].float().cpu() * sides).clamp(0, 1).tolist()
        scores, labels = row["scores"].tolist(), row["labels"].tolist()
        found = [
            Found(box[0], box[1], box[2], box[3], score, self.names[label])
            for box, score, label in zip(shares, scores, labels, strict=True)
            if box[2] > box[0] and box[3] > box[1]
        ]
        return sorted(found, key=lambda one: -one.score)


def load_detector(weights: Path, config: Mapping[str, Any], device: torch.device) -> Detector:
    """Return a detector with the weights of a file.

    Args:
        weights: of a training here.
        config: that it wrote beside them.
        device: to compute on.

    Raises:
        WeightsError: the file is none of weights, carries code, or is of another detector.
    """
    network = load_detector_weights(weights, config).to(device)
    threshold = float(config.get("threshold", 0.5))
    return Detector(network, config["classes"], int(config["image_size"]), threshold, device)
