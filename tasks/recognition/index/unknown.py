"""Chooses from when on a part counts as known, on held-out views of parts and of shapes that are none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.recognition.index.embedding import Floats
from tasks.recognition.index.index_folder import StoredIndex
from tasks.recognition.index.lookup import Lookup, Nearest

_LEVEL = 0.1  # share of a part's views that may be farther from all others
_MOST_COMPARED = 2000  # views of a part, spread evenly over its order


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold, and what it costs on the views it was chosen by. Shares are in [0, 1]."""

    threshold: float  # lowest score of a known part
    known_lost: float  # share of views of parts below it
    unknown_refused: float | None  # share of views of other shapes below it; None: there were none

    @property
    def sentence(self) -> str:
        """Return it for people."""
        refused = "no" if self.unknown_refused is None else f"{self.unknown_refused:.1%} of the"
        return (
            f"a part is known from a score of {self.threshold:.4f} on: {self.known_lost:.1%} of the held-out views of "
            f"parts lie below, and {refused} held-out views of other shapes"
        )


def calibrate(
    stored: StoredIndex, labels: NDArray[np.int64], known: Floats, unknown: Floats, lost: float
) -> Calibration:
    """Return the highest threshold that loses no more than a share of known views.

    Args:
        stored: the index, its threshold not asked.
        labels: (K,) of the known views; those that are taken for another part do not count.
        known: (K, D) vectors of held-out views of parts.
        unknown: (U, D) of shapes that are no part, which the embedding was not trained on.
        lost: share of the known views that may lie below the threshold, in (0, 0.5).
    """
    found = everything(stored, known)
    scores = np.array([each.score for each in found])
    right = np.array([each.part == label for each, label in zip(found, labels, strict=True)])
    below = np.array([each.score for each in everything(stored, unknown)])
    threshold = float(np.quantile(scores[right] if right.any() else scores, lost))
    refused = float(np.mean(below < threshold)) if len(below) else None
    return Calibration(threshold, float(np.mean(scores < threshold)), refused)


def part_levels(vectors: Floats, labels: NDArray[np.int64], n_parts: int) -> list[float]:
    """Return of each part the cosine that nine of ten of its views reach to the nearest other one.

    Parts differ in how alike their views are: one bound for all would take too much for the one and too little for
    another. A part of a single view has the mean level of the others.

    Args:
        vectors: (N, D) of length 1, of the views of an index.
        labels: (N,) numbers of their parts.
        n_parts: how many parts there are.
    """
    levels = np.full(n_parts, np.nan)
    for part in range(n_parts):
        own = np.flatnonzero(labels == part)
        own = own[np.linspace(0, len(own) - 1, min(len(own), _MOST_COMPARED)).astype(np.int64)]
        if len(own) > 1:
            cosines = vectors[own] @ vectors[own].T
            np.fill_diagonal(cosines, -1)
            levels[part] = np.quantile(cosines.max(1), _LEVEL)
    levels[np.isnan(levels)] = 1.0 if np.isnan(levels).all() else np.nanmean(levels)
    return [round(float(level), 6) for level in levels]


def everything(stored: StoredIndex, vectors: Floats) -> list[Nearest]:
    """Return the answers to vectors as if every part were known."""
    lookup = Lookup(stored.search, stored.labels, stored.levels)
    return lookup.answers(vectors, threshold=-np.inf, n_nearest=stored.config["n_nearest"])
