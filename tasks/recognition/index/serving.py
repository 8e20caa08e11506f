"""Logs an index as a model that MLflow serves, with the code that builds and searches it."""

from pathlib import Path

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Object, Property, Schema

from tasks.recognition.index.index_folder import CONFIG, VECTORS, VIEWS, WEIGHTS, read_index_config
from tasks.tracking.served_models import ServedModel, log_served_model

_ROOM = Path(__file__).parent
_CODE = _ROOM / "served_index.py"
# Modules that it loads from its artifacts.
_CODE_BESIDE = {
    "decoding": _ROOM.parents[1] / "images" / "decoding.py",
    "networks": _ROOM / "networks.py",
    "lookup": _ROOM / "lookup.py",
}
_NEEDS = ("mlflow", "torch", "torchvision", "faiss-cpu", "opencv-python-headless", "pillow", "numpy", "pandas")
_VIEW = Object(
    [
        Property("path", DataType.string),
        Property("part", DataType.string),
        Property("similarity", DataType.double),
    ]
)
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "part"),
            ColSpec(DataType.double, "score"),
            ColSpec(Array(_VIEW), "nearest"),
            ColSpec(Array(DataType.double), "rotation"),
        ]
    ),
)


def log_index(run_id: str, folder: Path, example: bytes, *, step: int = 0, name: str = "part_index") -> str:
    """Log an index; return its address `models:/m-...`.

    Args:
        run_id: the run it comes from.
        folder: of the index.
        example: an encoded image.
        step: the epoch of its weights.
        name: shown in MLflow.

    Raises:
        TrackingError: the model does not predict, or MLflow does not take it.
    """
    config = read_index_config(folder / CONFIG)
    files = {"config": CONFIG, "weights": WEIGHTS, "vectors": VECTORS, "views": VIEWS}
    needs = [*_NEEDS, "transformers"] if config["backbone"] == "transformers" else _NEEDS
    model = ServedModel(
        name=name,
        code=_CODE,
        artifacts={**{key: folder / file for key, file in files.items()}, **_CODE_BESIDE},
        signature=_SIGNATURE,
        example=pd.DataFrame({"image": [example]}),
        check=_fault,
        needs=needs,
        metadata={"parts": list(config["parts"])},
    )
    return log_served_model(run_id, model, step=step)


def _fault(answer: pd.DataFrame) -> str | None:
    score, n_nearest = float(answer["score"][0]), len(answer["nearest"][0])
    return None if -2 <= score <= 2 and n_nearest else f"answers {score} by {n_nearest} views, need a score and views"
