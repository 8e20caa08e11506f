"""Adds parts to an index from their rendered views, without training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.errors import ConfigError
from tasks.base.progress import Steps
from tasks.recognition.index.embedding import Floats, embedding, view_reader
from tasks.recognition.index.index_folder import (
    WEIGHTS,
    StoredIndex,
    load_embedder,
    read_index_folder,
    write_index_folder,
)
from tasks.recognition.index.lookup import all_vectors
from tasks.recognition.index.search import drawn_together, refilled
from tasks.recognition.index.unknown import everything, part_levels
from tasks.recognition.index.views import UNKNOWN, Views, read_new_views

_HELD_OUT = 5
"""Of the new views every fifth is asked for before it is added."""


@dataclass(frozen=True, slots=True)
class Addition:
    """What adding parts came to. Shares are in [0, 1]."""

    added: list[str]
    replaced: list[str]  # of those, the ones that the index had
    n_views: int  # of the added parts
    recall_1: dict[str, float]  # part -> share of its held-out views whose nearest view is of it
    known: dict[str, float]  # part -> share of its held-out views that reach the threshold

    @property
    def sentence(self) -> str:
        """Return it for people."""
        rows = [f"{name} {self.recall_1[name]:.1%} (known {self.known[name]:.1%})" for name in self.added]
        return f"added {self.n_views} views of {len(self.added)} part(s); recall@1 on held-out views: {', '.join(rows)}"


def adding(index: Path, views: Path, target: Path, device: torch.device, *, replace: bool = False) -> Steps[Addition]:
    """Fill `target` with an index that knows further parts; yield (done, total) of the new views.

    Embedding and threshold stay as they are. What an embedding was not trained on, it tells apart less well.

    Args:
        index: the folder of the index; it stays as it is.
        views: a folder of poses.csv and rendered views of the new parts.
        target: an existing empty folder.
        device: to compute on.
        replace: parts of names that the index has take the place of its own; else they are refused.

    Raises:
        ConfigError: a part of that name is there already, or no part may have it.
        DatasetError, WeightsError: the views or the index cannot be used.
    """
    stored = read_index_folder(index)
    names, new = read_new_views(views)
    replaced = _check_names(names, stored, replace=replace)
    embedder = load_embedder(index / WEIGHTS, stored.config).to(device)
    vectors = yield from embedding(embedder, view_reader(new, stored.config["image_size"]), len(new), device)
    held_out = _held_out(new.labels)
    grown = _grown(stored, names, new.chosen(~held_out), vectors[~held_out])
    found = everything(grown, vectors[held_out])
    truth = [names[label] for label in new.labels[held_out]]
    named = [None if each.part is None else grown.names[each.part] for each in found]
    known = [each.score >= float(stored.config["threshold"]) for each in found]
    write_index_folder(_grown(stored, names, new, vectors), index / WEIGHTS, target)
    right = [name == true for name, true in zip(named, truth, strict=True)]
    return Addition(names, replaced, len(new), _shares(right, truth, names), _shares(known, truth, names))


def _check_names(names: list[str], stored: StoredIndex, *, replace: bool) -> list[str]:
    known = [name for name in names if name in stored.config["parts"]]
    if known and not replace:
        raise ConfigError(
            f"the index has the part(s) {', '.join(known)} already: take other names, or set replace=true"
        )
    if UNKNOWN in names:
        raise ConfigError(f"found a part called {UNKNOWN!r}, which is an answer of its own: take another name")
    return known


def _held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask (N,) of every fifth view of each part, the first one left out."""
    mask = np.zeros(len(labels), dtype=bool)
    for number in np.unique(labels):
        mask[np.flatnonzero(labels == number)[_HELD_OUT - 1 :: _HELD_OUT]] = True
    return mask


def _grown(stored: StoredIndex, names: list[str], new: Views, vectors: Floats) -> StoredIndex:
    """Return an index with the new views in place of its own of the same names; its search is filled anew."""
    parts = sorted({*stored.config["parts"], *names})
    numbers = {name: number for number, name in enumerate(parts)}
    old = [place for place, label in enumerate(stored.labels) if stored.names[label] not in names]
    kept = [stored.names[stored.labels[place]] for place in old]
    labels = np.array([numbers[name] for name in [*kept, *(names[label] for label in new.labels)]], dtype=np.int64)
    every = np.concatenate([all_vectors(stored.search)[old], drawn_together(vectors, new.labels)])
    search = refilled(stored.search, every)
    config = {**stored.config, "parts": parts}
    if stored.levels is not None:
        config["levels"] = part_levels(every, labels, len(parts))
    return StoredIndex(
        config,
        search,
        [*(stored.paths[place] for place in old), *new.paths],
        labels,
        np.concatenate([stored.rotations[old], new.rotations]),
    )


def _shares(values: list[bool], truth: list[str], names: list[str]) -> dict[str, float]:
    """Return the share of true values among those of each name; 0 where a part has too few views to hold one out."""
    own = {name: [value for value, true in zip(values, truth, strict=True) if true == name] for name in names}
    return {name: float(np.mean(found)) if found else 0.0 for name, found in own.items()}
