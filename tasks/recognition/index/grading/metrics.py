"""Grades the answers of an index: which part, which pose, and what is unknown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.recognition.index.building import Queries
from tasks.recognition.index.index_folder import StoredIndex
from tasks.recognition.index.lookup import Nearest, quaternion_angles_deg
from tasks.recognition.index.unknown import everything

_DEEP = 5


@dataclass(frozen=True, slots=True)
class PartGrades:
    """How one part fares. Shares are in [0, 1]."""

    part: str
    n_views: int
    named: float  # share of its views that are named rightly, whatever their score
    recall_1: float  # share of its views whose nearest view is of it
    recall_5: float  # ... of whose five nearest one is
    refused: float  # share that is taken for unknown
    pose_error_deg: float  # median angle to the pose of the nearest view
    mixed_up_with: str  # the part that its views are taken for most often; empty: none


@dataclass(frozen=True, slots=True, eq=False)
class IndexReport:
    """Everything there is to say about the answers to held-out views. Shares are in [0, 1]."""

    parts: list[str]
    named: float  # share of views of parts that are named rightly, whatever their score
    recall_1: float  # ... whose nearest view is of the right part
    recall_5: float
    known_lost: float  # share of views of parts that are taken for unknown
    unknown_refused: float | None  # share of views of other shapes that are; None: there were none
    pose_error_deg: float  # median, of views that are named rightly
    per_part: list[PartGrades]
    confusion: NDArray[np.int64]  # (P + 1, P + 1) views; row = true, column = answered; the last is unknown
    known_scores: NDArray[np.float64]
    unknown_scores: NDArray[np.float64]
    mistakes: list[int]  # places among the queries, the surest first
    predicted: NDArray[np.int64]  # (Q,) number of the part answered; as many as there are parts: unknown
    answered: list[Nearest]  # one for each query, as if every part were known

    def metrics(self) -> dict[str, float | None]:
        """Return its single metrics by name."""
        names = ("named", "recall_1", "recall_5", "known_lost", "unknown_refused", "pose_error_deg")
        return {name: getattr(self, name) for name in names}


def grade(stored: StoredIndex, queries: Queries, n_worst: int) -> IndexReport:
    """Grade an index on the views it is held against.

    Args:
        stored: the index.
        queries: held-out views; labels from the number of parts on are of shapes that are none.
        n_worst: mistakes kept, at most.
    """
    n, answered = stored.n_parts, everything(stored, queries.vectors)
    truth = np.minimum(queries.labels, n)
    named = np.array([n if each.part is None else each.part for each in answered])
    scores = np.array([each.score for each in answered])
    predicted = np.where(scores >= stored.config["threshold"], named, n)
    known = truth < n
    right = named == truth
    first, deep = (_hits(stored, answered, truth, n_nearest) for n_nearest in (1, _DEEP))
    angles = _pose_errors(stored, answered, queries)
    confusion = np.zeros((n + 1, n + 1), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    return IndexReport(
        parts=list(stored.config["parts"]),
        named=float(right[known].mean()),
        recall_1=float(first[known].mean()),
        recall_5=float(deep[known].mean()),
        known_lost=float(np.mean(predicted[known] == n)),
        unknown_refused=float(np.mean(predicted[~known] == n)) if (~known).any() else None,
        pose_error_deg=_median(angles[known & right]),
        per_part=[_part(stored, number, truth, named, predicted, angles, first, deep) for number in range(n)],
        confusion=confusion,
        known_scores=scores[known],
        unknown_scores=scores[~known],
        mistakes=_worst(truth, predicted, scores, n_worst),
        predicted=predicted,
        answered=answered,
    )


def _hits(
    stored: StoredIndex, answered: Sequence[Nearest], truth: NDArray[np.int64], n_nearest: int
) -> NDArray[np.bool_]:
    """Return (Q,) whether one of the nearest views is of the right part."""
    return np.array(
        [
            bool(np.any(stored.labels[each.rows[:n_nearest]] == label))
            for each, label in zip(answered, truth, strict=True)
        ]
    )


def _pose_errors(stored: StoredIndex, answered: Sequence[Nearest], queries: Queries) -> NDArray[np.float64]:
    nearest = np.array([each.row or 0 for each in answered], dtype=np.int64)
    return quaternion_angles_deg(stored.rotations[nearest], queries.rotations)


def _part(
    stored: StoredIndex,
    number: int,
    truth: NDArray[np.int64],
    named: NDArray[np.int64],
    predicted: NDArray[np.int64],
    angles: NDArray[np.float64],
    first: NDArray[np.bool_],
    deep: NDArray[np.bool_],
) -> PartGrades:
    own = truth == number
    others = np.bincount(named[own & (named != number)], minlength=stored.n_parts)[: stored.n_parts]
    return PartGrades(
        part=stored.names[number],
        n_views=int(own.sum()),
        named=float(np.mean(named[own] == number)),
        recall_1=float(np.mean(first[own])),
        recall_5=float(np.mean(deep[own])),
        refused=float(np.mean(predicted[own] == stored.n_parts)),
        pose_error_deg=_median(angles[own & (named == number)]),
        mixed_up_with=stored.names[int(others.argmax())] if others.any() else "",
    )


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else 180.0


def _worst(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], scores: NDArray[np.float64], n_worst: int
) -> list[int]:
    wrong = np.flatnonzero(truth != predicted)
    return wrong[np.argsort(-scores[wrong], kind="stable")][:n_worst].tolist()
