"""Many vectors are searched in cells, nearly as well as one by one."""

import numpy as np
import pytest

from tasks.recognition.index.lookup import all_vectors
from tasks.recognition.index.search import build_search, drawn_together, refilled


def clustered(n, seed):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(0).standard_normal((40, 16))
    vectors = (middles[rng.integers(0, 40, n)] + 0.4 * rng.standard_normal((n, 16))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_cells_find_what_a_flat_search_finds():
    vectors, queries = clustered(6000, 1), clustered(300, 2)
    flat, _ = build_search(vectors, queries, 10_000, 0)
    cells, notes = build_search(vectors, queries, 5000, 0)
    assert cells.nlist == 256
    assert cells.nprobe < cells.nlist
    found = np.mean(flat.search(queries, 1)[1] == cells.search(queries, 1)[1])
    assert found >= 0.99
    assert f"{found:.1%}" in notes[0]


def test_vectors_come_back_in_their_order_and_can_be_exchanged():
    vectors, queries = clustered(6000, 1), clustered(100, 2)
    for most in (10_000, 5000):
        index, _ = build_search(vectors, queries, most, 0)
        assert np.array_equal(all_vectors(index), vectors)
        other = refilled(index, vectors[10:])
        assert np.array_equal(all_vectors(other), vectors[10:])
        assert index.ntotal == 6000


def test_views_of_a_part_are_drawn_together():
    angles = np.radians([0, 60, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    moved = drawn_together(vectors, np.array([0, 0, 1]))
    assert np.linalg.norm(moved, axis=1) == pytest.approx(1)
    ways = np.degrees(np.arctan2(moved[:, 1], moved[:, 0])) % 360
    # 1 at 0 degrees and half of 1 at 30 degrees, the mean's way.
    assert ways == pytest.approx(
        [np.degrees(np.arctan2(0.25, 1 + 0.5 * np.cos(np.radians(30)))), 60 - 9.896, 200], abs=0.01
    )
