"""What a detector finds on the images of a subset, kept in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.workspace import replacing
from tasks.recognition.detector.finding import find_all
from tasks.recognition.detector.networks import Detector
from tasks.recognition.detector.training.scenes import Scenes
from tasks.recognition.params import DetectorParams
from tasks.training.precision import Precision


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found on one image, the surest first; boxes in the unit of those they are held against."""

    boxes: NDArray[np.float32]  # (K, 4), left, top, right, bottom
    scores: NDArray[np.float32]  # (K,) in [0, 1]
    labels: NDArray[np.int64]  # (K,) class numbers

    def above(self, threshold: float) -> "Detections":
        """Return those that are at least so sure."""
        keep = self.scores >= threshold
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])


def detect_all(
    model: Detector, scenes: Scenes, params: DetectorParams, device: torch.device, precision: Precision
) -> list[Detections]:
    """Return what is found on each scene; boxes as shares of the image's longer side.

    Raises:
        ImageError: an image cannot be used.
        Interrupted: a signal has come.
    """
    model.to(device)
    rows: list[Detections] = []
    for found, _ in find_all(model, scenes, params, device, precision):
        for row in found:
            boxes = row["boxes"].cpu().numpy().astype(np.float32) / np.float32(params.image_size)
            scores = row["scores"].cpu().numpy().astype(np.float32)
            order = np.argsort(-scores, kind="stable")
            rows.append(Detections(boxes[order], scores[order], row["labels"].cpu().numpy().astype(np.int64)[order]))
    return rows


def write_detections(path: Path, rows: Sequence[Detections], digests: Sequence[str]) -> None:
    """Write detections with the digests of their images.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path) as file:
        np.savez(
            file,
            counts=np.array([len(row.scores) for row in rows], np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(row.boxes for row in rows)]),
            scores=np.concatenate([np.zeros(0, np.float32), *(row.scores for row in rows)]),
            labels=np.concatenate([np.zeros(0, np.int64), *(row.labels for row in rows)]),
            digests=np.array(digests, dtype=np.str_),
        )


def read_detections(path: Path) -> tuple[list[Detections], list[str]]:
    """Return what `write_detections` wrote."""
    with np.load(path) as found:
        cuts = np.cumsum(found["counts"])[:-1]
        columns = (np.split(found[name], cuts) for name in ("boxes", "scores", "labels"))
        rows = [Detections(*row) for row in zip(*columns, strict=True)]
        return rows[: len(found["counts"])], found["digests"].tolist()
