"""Logs a classifier as a model that MLflow serves, with the code that builds and feeds it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from tasks.base.workspace import write_json
from tasks.tracking.served_models import ServedModel, log_served_model

_TASKS = Path(__file__).parents[1]
_CODE = _TASKS / "classification" / "served_model.py"
# Modules that it loads from its artifacts.
_CODE_BESIDE = {"decoding": _TASKS / "images" / "decoding.py", "networks": _TASKS / "classification" / "networks.py"}
_NEEDS = ("mlflow", "torch", "torchvision", "opencv-python-headless", "pillow", "numpy", "pandas")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(DataType.double), "probabilities"),
        ]
    ),
)


def log_classifier(
    run_id: str, weights: Path, config: Mapping[str, Any], example: bytes, *, step: int = 0, name: str = "classifier"
) -> str:
    """Log a classifier; return its address `models:/m-...`.

    Args:
        run_id: the run it comes from.
        weights: a state dict.
        config: model, classes, image_size, mean, std; as the served model reads it.
        example: an encoded image.
        step: the epoch of the weights.
        name: shown in MLflow.

    Raises:
        TrackingError: the model does not predict, or MLflow does not take it.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-config-") as folder:
        model = served_classifier(Path(folder), weights, config, example, name)
        return log_served_model(run_id, model, step=step)


def served_classifier(
    folder: Path, weights: Path, config: Mapping[str, Any], example: bytes, name: str = "classifier"
) -> ServedModel:
    """Return a classifier as MLflow serves it; its configuration is written into an existing folder.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(folder / "config.json", dict(config))
    return ServedModel(
        name=name,
        code=_CODE,
        artifacts={"config": folder / "config.json", "weights": weights, **_CODE_BESIDE},
        signature=_SIGNATURE,
        example=pd.DataFrame({"image": [example]}),
        check=_fault,
        needs=_NEEDS,
        metadata={"classes": list(config["classes"])},
    )


def _fault(answer: pd.DataFrame) -> str | None:
    probability = float(answer["probability"][0])
    return None if 0 < probability <= 1 else f"answers {probability}, need a probability in (0, 1]"
