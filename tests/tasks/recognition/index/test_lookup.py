"""Files of FAISS are what their headers promise, and answers are what the nearest views say."""

import struct

import faiss
import numpy as np
import pytest

from tasks.recognition.index.lookup import Lookup, check_index_file, quaternion_angles_deg, read_index, recalls


def unit(n, dimensions=8, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def flat(vectors):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def cells(vectors, n_cells):
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, n_cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    return index


@pytest.mark.parametrize("made", [flat(unit(50)), cells(unit(900), 16), cells(np.repeat(unit(2), 400, axis=0), 8)])
def test_an_index_that_was_written_is_read(made, tmp_path):
    path = tmp_path / "i.faiss"
    faiss.write_index(made, str(path))
    assert check_index_file(path) == (8, made.ntotal)
    assert read_index(path).ntotal == made.ntotal


@pytest.mark.parametrize("made", [flat(unit(50)), cells(unit(900), 16)])
@pytest.mark.parametrize("cut", [0, 3, 20, 40, 60, 700, -1])
def test_an_index_that_was_cut_off_is_refused(made, cut, tmp_path):
    path = tmp_path / "i.faiss"
    faiss.write_index(made, str(path))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"i\.faiss"):
        read_index(path)


def test_an_index_that_promises_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "i.faiss"
    faiss.write_index(flat(unit(50)), str(path))
    data = bytearray(path.read_bytes())
    data[8:16] = struct.pack("<q", 2**38)
    data[37:45] = struct.pack("<Q", 8 * 2**38)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="found 1645 bytes, need"):
        read_index(path)


@pytest.mark.parametrize(
    "made", [faiss.IndexFlatL2(8), faiss.index_factory(8, "HNSW8"), faiss.index_factory(8, "PCA4,Flat")]
)
def test_an_index_of_another_kind_is_refused(made, tmp_path):
    path = tmp_path / "i.faiss"
    faiss.write_index(made, str(path))
    with pytest.raises(ValueError, match="need"):
        read_index(path)


def test_the_nearest_views_vote():
    views = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.8, -0.6, 0], [0, 0, 1]], dtype=np.float32)
    lookup = Lookup(flat(views), np.array([0, 1, 1, 2]))
    query = np.array([[0.96, 0.28, 0], [0.99, 0, np.sqrt(1 - 0.99**2)], [0.6, 0, 0.8]], dtype=np.float32)
    between, clear, low = lookup.answers(query, threshold=0.85, n_nearest=3)
    assert (between.part, between.row, between.rows[:2]) == (0, 0, [0, 1])  # 0.96 against 0.936 and 0.6
    assert (clear.part, clear.score) == (0, pytest.approx(0.99))
    assert (low.part, low.row, low.score) == (None, 3, pytest.approx(0.8))


def test_several_views_outvote_a_nearer_one():
    views = unit(1, 3) + 0 * unit(4, 3)
    views[1:] += np.array([[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]], dtype=np.float32)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    lookup = Lookup(flat(views), np.array([0, 1, 1, 1]))
    (found,) = lookup.answers(views[:1], threshold=0, n_nearest=4)
    assert (found.part, found.rows[0]) == (1, 0)
    assert found.row in (1, 2, 3)
    assert found.score < 1


def test_a_part_whose_views_differ_more_is_known_from_farther_away():
    views = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.float32)
    lookup = Lookup(flat(views), np.array([0, 1]), levels=[0.95, 0.75])
    query = np.array([[0.8, 0.6, 0], [0, 0.6, 0.8], [0.99, np.sqrt(1 - 0.99**2), 0]], dtype=np.float32)
    tight, loose, near = lookup.answers(query, threshold=0.9, n_nearest=1)
    assert (tight.part, tight.score, tight.similarities) == (None, pytest.approx(0.85), [pytest.approx(0.8)])
    assert (loose.part, loose.score) == (1, 1.0)  # 1.05, cut off
    assert (near.part, near.score) == (0, 1.0)


def test_recalls_of_vectors_by_hand():
    gallery = np.eye(3, dtype=np.float32)
    queries = np.array([[0.8, 0.6, 0], [0.8, 0.6, 0]], dtype=np.float32)
    found = recalls(gallery, np.array([0, 1, 2]), queries, np.array([0, 1]))
    assert found.at_1 == 0.5
    assert found.at_5 == 1.0
    assert found.gap == pytest.approx(0.0)


def test_angles_between_rotations():
    half = np.sqrt(0.5)
    first = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], dtype=np.float32)
    second = np.array([[-1, 0, 0, 0], [half, half, 0, 0], [0, 0, 1, 0]], dtype=np.float32)
    assert quaternion_angles_deg(first, second) == pytest.approx([0, 90, 180], abs=0.1)
