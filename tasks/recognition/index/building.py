"""Makes an index of a trained embedding: vectors of all views, the search among them, and the threshold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.errors import WeightsError
from tasks.base.outside import read_json
from tasks.base.progress import Steps
from tasks.base.workspace import replacing, staged
from tasks.recognition.index.embedding import Floats, embedding, view_reader
from tasks.recognition.index.index_folder import StoredIndex, load_embedder, write_index_folder
from tasks.recognition.index.networks import Embedder
from tasks.recognition.index.search import build_search, drawn_together
from tasks.recognition.index.unknown import calibrate, part_levels
from tasks.recognition.index.views import Views, ViewSet, file_digests
from tasks.recognition.params import IndexParams

INDEX, QUERIES = "index", "queries.npz"
"""In the folder of a training: the folder of the index, and the vectors of the views that it is graded on."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Held-out views and their vectors; the labels count the parts, shapes that are none follow."""

    paths: list[str]
    labels: NDArray[np.int64]  # (N,)
    rotations: NDArray[np.float32]  # (N, 4)
    vectors: Floats  # (N, D)
    digests: list[str]

    def write(self, path: Path) -> None:
        """Write them to a file.

        Raises:
            StorageError: it cannot be written.
        """
        named: dict[str, Any] = {"paths": self.paths, "digests": self.digests}
        with replacing(path) as file:
            np.savez(
                file, allow_pickle=False, labels=self.labels, rotations=self.rotations, vectors=self.vectors, **named
            )


def read_queries(path: Path) -> Queries:
    """Return what `Queries.write` wrote."""
    with np.load(path, allow_pickle=False) as found:
        texts = {name: found[name].tolist() for name in ("paths", "digests")}
        return Queries(**texts, **{name: found[name] for name in ("labels", "rotations", "vectors")})


def building(
    views: ViewSet, training: Path, params: IndexParams, device: torch.device, log: Callable[[str], None]
) -> Steps[None]:
    """Fill the folder of a finished training with its index, and with the vectors that it is graded on.

    Args:
        views: of the data set trained on.
        training: holds best.pt and config.json of an embedder.
        params: how the search and the threshold are chosen.
        device: to compute on.
        log: told how the search was chosen and what the threshold costs.
    """
    config = read_json(training / "config.json", WeightsError)
    embedder = load_embedder(training / "best.pt", config).to(device)
    kept, held = views.subset("train"), {"val": views.subset("val"), **graded_views(views)}
    vectors: dict[str, Floats] = {}
    for name, some in {"index": kept, **held}.items():
        vectors[name] = yield from embedded(embedder, some, config, params, device)
    vectors["index"] = drawn_together(vectors["index"], kept.labels)
    search, notes = build_search(vectors["index"], vectors["val"], params.ivf_above, params.seed)
    levels = part_levels(vectors["index"], kept.labels, len(views.parts))
    without = {**config, "levels": levels, "threshold": -1.0, "n_nearest": params.n_nearest}
    stored = StoredIndex(without, search, kept.paths, kept.labels, kept.rotations)
    found = calibrate(stored, held["val"].labels, vectors["val"], vectors["calibrate"], params.known_lost)
    for text in [*notes, found.sentence]:
        log(text)
    _keep_queries(held, vectors, training)
    stored = replace(stored, config={**without, "threshold": found.threshold})
    with staged(training / INDEX) as folder:
        write_index_folder(stored, training / "best.pt", folder)


def embedded(
    embedder: Embedder, views: Views, config: Mapping[str, Any], params: IndexParams, device: torch.device
) -> Steps[Floats]:
    """Yield (done, total); return the vectors of views."""
    reader = view_reader(views, config["image_size"])
    return (
        yield from embedding(
            embedder, reader, len(views), device, config.get("precision", "fp32"), n_workers=params.n_workers
        )
    )


def graded_views(views: ViewSet) -> dict[str, Views]:
    """Return the held-out views: of the parts, and of the shapes to calibrate with, which are none."""
    return {"test": views.subset("test"), "calibrate": views.distractor_views("calibrate")}


def joined(several: Sequence[Views]) -> Views:
    """Return views of one data set, one after the other."""
    paths = [path for views in several for path in views.paths]
    labels = np.concatenate([views.labels for views in several])
    return Views(several[0].root, paths, labels, np.concatenate([views.rotations for views in several]))


def _keep_queries(held: Mapping[str, Views], vectors: Mapping[str, Floats], training: Path) -> None:
    some = joined([held["test"], held["calibrate"]])
    both = np.concatenate([vectors["test"], vectors["calibrate"]])
    digests = file_digests(some, lambda: None)
    Queries(some.paths, some.labels, some.rotations, both, digests).write(training / QUERIES)
