"""Builds the search among vectors: one by one, or in cells where there are many."""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_WANTED = 0.99
"""Share of queries whose nearest view must be found among cells as it is one by one."""
_PER_CELL = 40
"""Vectors of each cell that its middle is computed from; FAISS warns below 39."""
_MOST_QUERIES = 2000
_PULL = 0.5
"""Weight of a part's mean beside that of a view. On the demo's parts, of 2,000 unseen views and 480 of eight other
machine parts at 0, 0.25, 0.5, 1 and 2: nearest view of the right part 0.881, 0.894, 0.893, 0.897, 0.902; unknown
refused 0.45, 0.48, 0.48, 0.47, 0.46."""


def build_search(vectors: Floats, queries: Floats, ivf_above: int, seed: int) -> tuple[Any, list[str]]:
    """Return an index of FAISS over vectors, for inner products, and sentences on how well it finds.

    Args:
        vectors: (N, D) of length 1.
        queries: (Q, D) of length 1, held out, to choose by how many cells are looked into.
        ivf_above: more vectors than this lie in cells.
        seed: of the cells.
    """
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    if len(vectors) <= ivf_above:
        return flat, [f"{len(vectors)} views are searched one by one"]
    cells = _cells(vectors, seed)
    return cells, [_choose_probes(cells, flat, queries[:_MOST_QUERIES])]


def drawn_together(vectors: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the vectors (N, D) of views, of length 1, each moved towards the mean of its part.

    A view that hardly shows what sets its part apart may lie among those of another part; as a neighbour it misleads.

    Source: the average of a vector and those it is known to belong with, Turcot and Lowe 2009, "Better Matching with
    Fewer Features"; Arandjelovic and Zisserman 2012, "Three Things Everyone Should Know to Improve Object Retrieval".

    Args:
        vectors: (N, D) of length 1.
        labels: (N,) numbers of their parts.
    """
    moved = vectors.copy()
    for part in np.unique(labels):
        own = labels == part
        mean = vectors[own].mean(0)
        moved[own] += _PULL * mean / (np.linalg.norm(mean) + 1e-12)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _cells(vectors: Floats, seed: int) -> Any:
    n_cells = 2 ** round(np.log2(4 * np.sqrt(len(vectors))))  # FAISS's wiki: 4 to 16 times the square root
    quantizer = faiss.IndexFlatIP(vectors.shape[1])
    cells = faiss.IndexIVFFlat(quantizer, vectors.shape[1], n_cells, faiss.METRIC_INNER_PRODUCT)
    cells.cp.seed, cells.cp.max_points_per_centroid = seed % 2**31, _PER_CELL
    cells.train(vectors)
    cells.add(vectors)
    return cells


def _choose_probes(cells: Any, flat: Any, queries: Floats) -> str:
    """Set in how many cells is looked: the fewest that find nearly as well; return a sentence on it."""
    nearest = flat.search(queries, 1)[1][:, 0]
    for n_probes in _doublings(cells.nlist):
        cells.nprobe = n_probes
        recall = float(np.mean(cells.search(queries, 1)[1][:, 0] == nearest)) if len(queries) else 1.0
        if recall >= _WANTED:
            break
    return (
        f"{cells.ntotal} views lie in {cells.nlist} cells, {cells.nprobe} of which are looked into: the nearest view "
        f"is found in {recall:.1%} of {len(queries)} queries"
    )


def _doublings(most: int) -> Iterator[int]:
    n = 1
    while n < most:
        yield n
        n *= 2
    yield most


def refilled(index: Any, vectors: Floats) -> Any:
    """Return an index like another one, with vectors (N, D) of its own; cells keep their places."""
    copy = faiss.clone_index(index)
    copy.reset()
    copy.add(np.ascontiguousarray(vectors))
    return copy
