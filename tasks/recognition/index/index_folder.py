"""The folder of an index: its network, its views and vectors, and its threshold."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.errors import WeightsError
from tasks.base.outside import TABLE_BYTES, check_file, read_json, read_text
from tasks.base.workspace import write_atomic, write_json
from tasks.recognition.index.lookup import check_index_file, read_index
from tasks.recognition.index.networks import Embedder, build
from tasks.training.state_dicts import read_state_dict

CONFIG, WEIGHTS, VECTORS, VIEWS = "config.json", "weights.pt", "index.faiss", "views.csv"
FILES = (CONFIG, WEIGHTS, VECTORS, VIEWS)
VECTOR_BYTES = 64 * 2**30
"""Of a file of vectors: a hundred million of 128 numbers take 51 GB."""
_COLUMNS = ("path", "name", "w", "x", "y", "z")


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index: row i of its table is the i-th vector of `search`."""

    config: Mapping[str, Any]  # the embedder's, image_size, parts, levels, threshold, n_nearest
    search: Any  # of FAISS
    paths: list[str]  # of the views, below their data set
    labels: NDArray[np.int64]  # (N,) number in `names`
    rotations: NDArray[np.float32]  # (N, 4) quaternions w, x, y, z: part frame -> camera frame
    names: list[str] = field(init=False)  # of the parts

    def __post_init__(self) -> None:
        """Fill in the names."""
        object.__setattr__(self, "names", list(self.config["parts"]))

    @property
    def n_parts(self) -> int:
        """Return how many parts the index knows."""
        return len(self.config["parts"])

    @property
    def levels(self) -> list[float] | None:
        """Return how alike views of each part are; None: an index from before that was told."""
        return self.config.get("levels")


def write_index_folder(stored: StoredIndex, weights: Path, folder: Path) -> None:
    """Write an index into an existing folder.

    Args:
        stored: what is written.
        weights: a file with the state dict of its embedder.
        folder: where config.json, weights.pt, index.faiss and views.csv come to lie.
    """
    import faiss  # noqa: PLC0415

    write_atomic(folder / WEIGHTS, weights.read_bytes())
    faiss.write_index(stored.search, str(folder / VECTORS))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for path, label, rotation in zip(stored.paths, stored.labels, stored.rotations, strict=True):
        table.writerow((path, stored.names[label], *(f"{value:.6g}" for value in rotation)))
    write_atomic(folder / VIEWS, text.getvalue().encode())
    write_json(folder / CONFIG, dict(stored.config))


def read_index_folder(folder: Path) -> StoredIndex:
    """Return the index in a folder that `write_index_folder` filled, here or elsewhere.

    Raises:
        WeightsError: a file is missing, too large, damaged, or does not fit the others.
    """
    config = read_index_config(folder / CONFIG)
    names = {name: number for number, name in enumerate(config["parts"])}
    rows = list(csv.reader(read_text(folder / VIEWS, WeightsError, TABLE_BYTES).splitlines()))
    if not rows or tuple(rows[0]) != _COLUMNS:
        raise WeightsError(f"found no columns {', '.join(_COLUMNS)}: {folder / VIEWS}")
    try:
        labels = np.array([names[row[1]] for row in rows[1:]], dtype=np.int64)
        rotations = np.array([[float(value) for value in row[2:6]] for row in rows[1:]], dtype=np.float32)
        rotations = rotations.reshape(len(labels), 4)
    except (KeyError, ValueError, IndexError) as exc:
        raise WeightsError(f"found a row without a known name or a rotation ({exc!r}): {folder / VIEWS}") from exc
    check_file(folder / VECTORS, WeightsError, VECTOR_BYTES)
    try:
        dimensions, n = check_index_file(folder / VECTORS)
        if n != len(labels):
            raise ValueError(f"found {n} vectors, need one for each of the {len(labels)} views: {folder / VECTORS}")
        search = read_index(folder / VECTORS)
    except ValueError as exc:
        raise WeightsError(str(exc)) from exc
    if config["dimension"] not in (None, dimensions):
        raise WeightsError(f"found vectors of {dimensions} numbers, need {config['dimension']}: {folder / VECTORS}")
    return StoredIndex(config, search, [row[0] for row in rows[1:]], labels, rotations)


def read_index_config(path: Path) -> dict[str, Any]:
    """Return the configuration of an index.

    Raises:
        WeightsError: it is not one.
    """
    config = read_json(path, WeightsError)
    kinds: dict[str, type | tuple[type, ...]] = {
        "backbone": str,
        "dimension": (int, type(None)),
        "quarter_turns": bool,
        "mean": list,
        "std": list,
        "image_size": int,
        "parts": list,
        "threshold": (int, float),
        "n_nearest": int,
    }
    if not isinstance(config, dict):
        raise WeightsError(f"found a {type(config).__name__}, need the configuration of an index: {path}")
    for key, kind in kinds.items():
        if key not in config or not isinstance(config[key], kind):
            raise WeightsError(f"found {config.get(key)!r} as {key!r}, need the configuration of an index: {path}")
    levels = config.get("levels", [1.0] * len(config["parts"]))
    if (
        not isinstance(levels, list)
        or len(levels) != len(config["parts"])
        or not all(isinstance(level, int | float) for level in levels)
    ):
        raise WeightsError(f"found {levels!r} as 'levels', need a number for each of the parts: {path}")
    return config


def load_embedder(weights: Path, config: Mapping[str, Any]) -> Embedder:
    """Return the embedder of a configuration, with its weights.

    Raises:
        WeightsError: the file holds none, or others.
    """
    state = read_state_dict(weights)
    try:
        embedder = build(config)
        embedder.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise WeightsError(f"weights do not fit the configuration of their index ({reason}): {weights}") from exc
    return embedder.eval().to(memory_format=torch.channels_last)
