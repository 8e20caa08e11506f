"""Writes the embedding of an index as ONNX, and checks the file against the original."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from tasks.base.errors import TrainingError
from tasks.recognition.index.networks import Embedder

LEAST_COSINE = 0.9999
N_CHECKED = 50


def export_onnx(embedder: Embedder, config: Mapping[str, Any], path: Path, images: NDArray[np.uint8]) -> float:
    """Write an embedder as an ONNX file; return the lowest cosine between its vectors and the original's.

    The file takes `images` (B, 3, S, S) uint8 RGB and gives `vectors` (B, D) float32 of length 1, for any B.

    Args:
        embedder: on the CPU.
        config: of the index; gives the size S.
        path: of the file.
        images: (N, S, S, 3) uint8 RGB to check it on.

    Raises:
        TrainingError: a vector differs.
    """
    size = config["image_size"]
    embedder = embedder.cpu().eval().to(memory_format=torch.contiguous_format)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        embedder,
        (torch.zeros(2, 3, size, size, dtype=torch.uint8),),
        str(path),
        input_names=["images"],
        output_names=["vectors"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=65_536)}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        wanted = embedder(torch.from_numpy(pixels)).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(["vectors"], {"images": pixels})[0])
    lowest = float(np.min(np.sum(wanted * found, axis=1)))
    if not lowest >= LEAST_COSINE:
        raise TrainingError(f"the ONNX file's vectors differ: cosine {lowest:.6f}, need {LEAST_COSINE}: {path}")
    return lowest
