"""The ONNX file of an embedder gives its vectors."""

import numpy as np
import onnxruntime
import pytest

from tasks.base.errors import TrainingError
from tasks.recognition.index import onnx_export
from tasks.recognition.index.networks import build


def embedder(*, quarter_turns):
    pixels = {"mean": [0.5] * 3, "std": [0.2] * 3}
    return build({"backbone": "small", "dimension": 16, "quarter_turns": quarter_turns, **pixels})


def images(n):
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def test_the_file_gives_the_same_vectors_for_any_number_of_images(tmp_path):
    path = tmp_path / "e.onnx"
    assert onnx_export.export_onnx(embedder(quarter_turns=True), {"image_size": 32}, path, images(50)) >= 0.9999
    session = onnxruntime.InferenceSession(str(path))
    for n in (1, 7):
        (vectors,) = session.run(None, {"images": images(n).transpose(0, 3, 1, 2)})
        assert vectors.shape == (n, 16)


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LEAST_COSINE", 1.1)
    with pytest.raises(TrainingError, match="vectors differ"):
        onnx_export.export_onnx(embedder(quarter_turns=False), {"image_size": 32}, tmp_path / "e.onnx", images(3))
