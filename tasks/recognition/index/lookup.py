"""Finds the nearest views of vectors, and says by them which part they are of, or that it is none.

A copy of this file is kept with every index in MLflow and used there, so it imports nothing of this project.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

DEEP = 64
"""Nearest views that vote for their part."""
_SHARPNESS = 0.06
"""Difference of cosines at which a vote counts less by a factor of e."""
MOST_DIMENSIONS = 65_536
_HEADER = struct.Struct("<4siqqqBi")  # kind, dimensions, vectors, two unused numbers, trained, metric
_COUNT = struct.Struct("<Q")
_FLAT, _IVF, _LISTS = b"IxFI", b"IwFl", b"ilar"
_INNER_PRODUCT = 0


class Nearest(NamedTuple):
    """What an index answers to one image."""

    part: int | None  # number of the part; None: unknown
    score: float  # how alike the nearest view of the likeliest part is, which the threshold is held against
    row: int | None  # of that view; None: the index holds none
    rows: list[int]  # of the nearest views, the most similar first
    similarities: list[float]  # their cosines


class Recalls(NamedTuple):
    """How well vectors find those of their own class. Shares are in [0, 1]."""

    at_1: float  # share whose nearest one is of the same class
    at_5: float  # ... of whose five nearest one is
    gap: float  # mean cosine to the nearest of the same class, less that to the nearest of another


def recalls(
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Recalls:
    """Return how well queries, (Q, D) of length 1, find their class in a gallery, (N, D) of length 1."""
    cosines = queries @ gallery.T
    same = labels[:, None] == gallery_labels[None, :]
    n = min(5, cosines.shape[1])
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :n]
    hits = np.take_along_axis(same, nearest, axis=1)
    own = np.where(same, cosines, -1).max(1)
    other = np.where(same, -1, cosines).max(1)
    return Recalls(float(hits[:, 0].mean()), float(hits.any(1).mean()), float((own - other).mean()))


def check_index_file(path: Path) -> tuple[int, int]:
    """Return dimensions and number of vectors of a file of FAISS, once its size is what its header promises.

    FAISS itself takes the numbers in a file for true, and asks for as much memory as they say.

    Raises:
        ValueError: it is neither a flat index nor one of cells, for inner products, or has another size.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        kind, dimensions, n = _header(file, path)
        if kind == _FLAT:
            need = _end_of_flat(file, path, dimensions, n)
        elif kind == _IVF:
            need = _end_of_cells(file, path, dimensions, n, size)
        else:
            raise ValueError(f"found an index of kind {kind!r}, need a flat one or one of cells (IVF): {path}")
    if size != need:
        raise ValueError(f"found {size} bytes, need the {need} that {n} vectors of {dimensions} numbers take: {path}")
    return dimensions, n


def _read(file: BinaryIO, layout: struct.Struct, path: Path) -> tuple[Any, ...]:
    data = file.read(layout.size)
    if len(data) < layout.size:
        raise ValueError(f"ends in its header, need a file of FAISS: {path}")
    return layout.unpack(data)


def _header(file: BinaryIO, path: Path) -> tuple[bytes, int, int]:
    kind, dimensions, n, _, _, trained, metric = _read(file, _HEADER, path)
    if kind in (_FLAT, _IVF) and not (
        0 < dimensions <= MOST_DIMENSIONS and 0 <= n < 2**40 and trained == 1 and metric == _INNER_PRODUCT
    ):
        raise ValueError(
            f"found {dimensions} dimensions, {n} vectors, trained {trained}, metric {metric}: need 1 to "
            f"{MOST_DIMENSIONS} dimensions, trained, for inner products (metric 0): {path}"
        )
    return kind, dimensions, n


def _end_of_flat(file: BinaryIO, path: Path, dimensions: int, n: int) -> int:
    (numbers,) = _read(file, _COUNT, path)
    if numbers != n * dimensions:
        raise ValueError(f"found {numbers} numbers, need {n} vectors of {dimensions}: {path}")
    return file.tell() + 4 * numbers


def _end_of_cells(file: BinaryIO, path: Path, dimensions: int, n: int, size: int) -> int:
    """Return where an index of cells ends: header, middles of the cells (a flat index), no map, lists."""
    n_cells, _ = _read(file, struct.Struct("<QQ"), path)
    kind, *shape = _header(file, path)
    if kind != _FLAT or shape != [dimensions, n_cells]:
        raise ValueError(f"found middles of kind {kind!r} and shape {shape}, need {n_cells} of {dimensions}: {path}")
    file.seek(_end_of_flat(file, path, dimensions, n_cells))
    has_map, n_map, lists, n_lists, code, layout, n_sizes = _read(file, struct.Struct("<BQ4sQQ4sQ"), path)
    if (has_map, n_map, lists, n_lists, code) != (0, 0, _LISTS, n_cells, 4 * dimensions) or 8 * n_sizes > size:
        raise ValueError(f"found lists of another kind or shape, need {n_cells} of {4 * dimensions} bytes: {path}")
    sizes = list(_read(file, struct.Struct(f"<{n_sizes}Q"), path))
    if layout == b"sprs":  # pairs of the number of a cell and its size; the others are empty
        numbers, sizes = sizes[0::2], sizes[1::2]
        in_order = all(number < n_cells for number in numbers)
    else:
        in_order = layout == b"full" and n_sizes == n_cells
    if not in_order or sum(sizes) != n:
        raise ValueError(f"found {sum(sizes)} vectors in its lists, need {n}: {path}")
    return file.tell() + n * (4 * dimensions + 8)


def read_index(path: Path) -> Any:
    """Return the index in a file of FAISS.

    Raises:
        ValueError: as `check_index_file`, or FAISS refuses it.
    """
    check_index_file(path)
    try:
        return faiss.read_index(str(path))
    except RuntimeError as exc:
        raise ValueError(f"is no file of FAISS that can be read ({str(exc)[-200:]}): {path}") from exc


class Lookup:
    """Names parts by the views that are nearest.

    Each of the nearest views votes for its part with exp(cosine / 0.06). The score is the cosine to the nearest view of
    the part that wins, plus one less the level of that part, at most 1: then the image is as near as views of the part
    are to one another. A part is known from a threshold on.

    Measured on the demo's ten parts (600 CPU-seconds of training at 96 px), 200 held-out views of them and 480 of eight
    machine parts never seen: the vote names 0.945 of the views rightly, the nearest view alone 0.935. At the threshold
    that loses 0.04 of the known views this score refuses 0.75 of the unknown ones; the cosine alone, one bound for all
    parts, 0.67; the mean of the ten nearest cosines 0.66, the Mahalanobis distance to the nearest part
    (arXiv:1807.03888) 0.65, the cosine less a quarter of that to shapes that are no part 0.64, a linear model 0.52,
    the share of the votes 0.17.

    Args:
        index: of FAISS, N vectors.
        labels: (N,) number of the part that each vector is a view of.
        levels: of each part, the cosine that views of it have to one another; None: 1 for all, the score is the cosine.
    """

    def __init__(
        self, index: Any, labels: NDArray[np.int64], levels: Sequence[float] | NDArray[np.float64] | None = None
    ) -> None:
        self._index, self._labels = index, labels
        self._levels = np.ones(int(labels.max(initial=-1)) + 1) if levels is None else np.asarray(levels)

    def answers(self, queries: NDArray[np.float32], *, threshold: float, n_nearest: int) -> list[Nearest]:
        """Return what the index answers to each vector.

        Args:
            queries: (Q, D) of length 1.
            threshold: lowest score of a part that is known.
            n_nearest: views given, at most.
        """
        if not len(queries):
            return []
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        cosines, rows = self._index.search(queries, min(DEEP, self._index.ntotal))
        return [self._answer(*pair, threshold, n_nearest) for pair in zip(cosines, rows, strict=True)]

    def _answer(
        self, cosines: NDArray[np.float32], rows: NDArray[np.int64], threshold: float, n_nearest: int
    ) -> Nearest:
        found = rows >= 0  # cells that were looked into may hold fewer
        rows, cosines = rows[found], cosines[found]
        if not len(rows):
            return Nearest(None, -1.0, None, [], [])
        labels = self._labels[rows]
        winner = int(np.bincount(labels, np.exp((cosines - cosines[0]) / _SHARPNESS)).argmax())
        first = int(np.argmax(labels == winner))
        score = min(1.0, float(cosines[first]) + 1 - float(self._levels[winner]))
        part = winner if score >= threshold else None
        return Nearest(part, score, int(rows[first]), rows[:n_nearest].tolist(), cosines[:n_nearest].tolist())


def all_vectors(index: Any) -> NDArray[np.float32]:
    """Return the vectors (N, D) of an index, in the order they were added."""
    if not hasattr(index, "make_direct_map"):
        return index.reconstruct_n(0, index.ntotal)
    index.make_direct_map(True)
    found = index.reconstruct_n(0, index.ntotal)
    index.make_direct_map(False)
    return found


def quaternion_angles_deg(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the angles (N,) between rotations given as quaternions (N, 4) of length 1, degrees in [0, 180]."""
    cosines = np.abs(np.sum(first.astype(np.float64) * second, axis=1))
    return np.degrees(2 * np.arccos(np.clip(cosines, 0, 1)))
