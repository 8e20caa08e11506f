"""Logs a detector as a model that MLflow serves, with the code that builds and feeds it."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from tasks.recognition.detector.networks import TRANSFORMERS
from tasks.tracking.served_models import ServedModel, log_served_model

_HERE = Path(__file__).parent
_CODE = _HERE / "served_detector.py"
# Modules that it loads from its artifacts.
_CODE_BESIDE = {
    "decoding": _HERE.parents[1] / "images" / "decoding.py",
    "squaring": _HERE / "squaring.py",
    "networks": _HERE / "networks.py",
}
_NEEDS = ("mlflow", "torch", "torchvision", "opencv-python-headless", "pillow", "numpy", "pandas")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(Array(Array(DataType.double)), "boxes"),
            ColSpec(Array(DataType.string), "names"),
            ColSpec(Array(DataType.double), "scores"),
        ]
    ),
    params=ParamSchema([ParamSpec("threshold", DataType.double, 0.0)]),  # 0: the working threshold
)


def log_detector(run_id: str, weights: Path, config: Mapping[str, Any], example: bytes, *, step: int = 0) -> str:
    """Log a detector; return its address `models:/m-...`.

    Args:
        run_id: the run it comes from.
        weights: a state dict.
        config: network, classes, image_size, threshold; as the served detector reads it.
        example: an encoded image.
        step: the epoch of the weights.

    Raises:
        TrackingError: it does not predict, or MLflow does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-config-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(config), indent=2), encoding="utf-8")
        model = ServedModel(
            name="detector",
            code=_CODE,
            artifacts={"config": path, "weights": weights, **_CODE_BESIDE},
            signature=_SIGNATURE,
            example=pd.DataFrame({"image": [example]}),
            check=_fault,
            needs=(*_NEEDS, "transformers") if config["network"] in TRANSFORMERS else _NEEDS,
            metadata={"classes": list(config["classes"])},
        )
        return log_served_model(run_id, model, step=step)


def _fault(answer: pd.DataFrame) -> str | None:
    row = answer.iloc[0]
    same = len(row["boxes"]) == len(row["names"]) == len(row["scores"])
    return None if same else f"answers {len(row['boxes'])} boxes for {len(row['names'])} names, need one for each"
