"""Exports a detector as ONNX, and compares it with the original on images."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.base.errors import TrainingError
from tasks.base.workspace import storage_errors
from tasks.recognition.detector.grading.matching import overlaps
from tasks.recognition.detector.networks import MAX_FOUND, Detector, Found

NOT_EXPORTED = {"rf_detr": "ONNX lacks the smooth resizing of its position embedding"}
"""Network -> why it has no ONNX file."""
NAMES = ("boxes", "scores", "labels")
"""Outputs: (K, 4) float32 pixels of the square, (K,) float32, (K,) int64; the surest first."""
MOST_PIXELS, MOST_SCORE = 1.0, 1e-3
"""By how much boxes and scores may differ: kernels add up in another order."""
_WORTH = 0.05  # scores below are noise: which of two equal ones survives may differ


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well an exported detector agrees with its original."""

    n_images: int
    n_found: int  # compared
    pixels: float  # largest difference of a box's side
    score: float  # largest difference of a score

    @property
    def is_close(self) -> bool:
        """Return whether the two can stand for each other."""
        return self.pixels <= MOST_PIXELS and self.score <= MOST_SCORE

    def __str__(self) -> str:
        verdict = "agrees with" if self.is_close else "differs from"
        return (
            f"ONNX {verdict} the original on {self.n_images} images: {self.n_found} detections, boxes within "
            f"{self.pixels:.3f} px, scores within {self.score:.1e}"
        )


class _OneImage(nn.Module):
    """A detector as ONNX has it: one square in, three tensors out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take (1, 3, S, S) uint8, give `NAMES`."""
        found = self.detector.find(image.float() / 255)[0]
        return tuple(found[name] for name in NAMES)


def export(detector: Detector, path: Path) -> None:
    """Write a detector as ONNX: input `image` (1, 3, S, S) uint8 RGB, outputs as `NAMES`.

    Raises:
        TrainingError: it cannot be exported.
        StorageError: the file cannot be written.
    """
    size = detector.image_size
    example = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    axes = {name: {0: "found"} for name in NAMES}
    with storage_errors(path), warnings.catch_warnings(), torch.inference_mode():
        # Tracing says of each size that it becomes a constant, which is meant.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _OneImage(detector.cpu()).eval(),  # as a whole: exporting puts back what it was before
                (example,),
                str(path),
                input_names=["image"],
                output_names=list(NAMES),
                dynamic_axes=axes,
                opset_version=18,
                dynamo=False,  # the newer exporter cannot follow non-maximum suppression
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError, ValueError) as exc:
            raise TrainingError(f"the detector cannot be exported as ONNX: {' '.join(str(exc).split())[:300]}") from exc


def compare(detector: Detector, path: Path, squares: Sequence[NDArray[np.uint8]]) -> Agreement:
    """Return how well an exported detector agrees with the original.

    Args:
        detector: the original.
        path: of the exported one.
        squares: images (S, S, 3) uint8.
    """
    run = _session(path)
    pixels = score = 0.0
    n_found = 0
    for square in squares:
        image = torch.from_numpy(square).permute(2, 0, 1)[None].contiguous()
        with torch.inference_mode():
            original = detector.find(image.float() / 255)
        boxes, scores, labels = run(image.numpy())
        theirs = {"boxes": boxes, "scores": scores, "labels": labels}
        difference = _difference(original, theirs)
        pixels, score = max(pixels, difference[0]), max(score, difference[1])
        n_found += difference[2]
    return Agreement(len(squares), n_found, pixels, score)


def _session(path: Path) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: list(session.run(list(NAMES), {"image": image}))


def _difference(original: Found, theirs: dict[str, NDArray[Any]]) -> tuple[float, float, int]:
    """Return the largest difference of a side and of a score, each detection held against the nearest of its class."""
    mine = {name: value.cpu().numpy() for name, value in original[0].items()}
    # Of the last ones that an image has room for, others with the same score may have been kept instead.
    full = len(mine["scores"]) == MAX_FOUND
    sure = mine["scores"] > max(_WORTH, float(mine["scores"].min()) + MOST_SCORE if full else 0.0)
    pixels = score = 0.0
    for box, value, label in zip(mine["boxes"][sure], mine["scores"][sure], mine["labels"][sure], strict=True):
        same = np.flatnonzero(theirs["labels"] == label)
        if not len(same):
            return float("inf"), float("inf"), int(sure.sum())
        near = overlaps(box[None], theirs["boxes"][same])[0]
        best = same[int(np.argmax(near - np.abs(theirs["scores"][same] - value)))]
        pixels = max(pixels, float(np.abs(theirs["boxes"][best] - box).max()))
        score = max(score, float(abs(theirs["scores"][best] - value)))
    return pixels, score, int(sure.sum())
