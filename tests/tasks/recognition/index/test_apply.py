"""An index names parts in crops, finds the pose, and says unknown."""

import numpy as np
import torch

from tasks.recognition.index.apply import load_index
from tasks.recognition.index.building import INDEX, QUERIES, building, read_queries
from tasks.recognition.index.grading.metrics import grade
from tasks.recognition.index.index_folder import read_index_folder
from tasks.recognition.index.training.session import IndexSession
from tests.tasks.recognition.index.conftest import PARTS, draw

CPU = torch.device("cpu")


def test_parts_are_named(trained):
    index = load_index(trained / INDEX, CPU)
    rng = np.random.default_rng(77)
    names = [name for name in PARTS for _ in range(6)]
    found = index.name([draw(name, rng)[0] for name in names])
    assert np.mean([each.nearest[0][1] == name for each, name in zip(found, names, strict=True)]) >= 0.9
    for each in found:
        assert len(each.nearest) == 5
        assert np.isclose(np.linalg.norm(each.rotation), 1, atol=1e-4)
        similarities = [cosine for _, _, cosine in each.nearest]
        assert similarities == sorted(similarities, reverse=True)
        assert -1.001 <= similarities[-1] <= similarities[0] <= 1.001


def test_a_threshold_that_nothing_reaches_makes_everything_unknown(trained):
    index = load_index(trained / INDEX, CPU)
    index.stored.config["threshold"] = 3.0
    assert [each.part for each in index.name([draw("disc", np.random.default_rng(1))[0]])] == [None]


def test_no_crop_gives_no_answer(trained):
    assert load_index(trained / INDEX, CPU).name([]) == []


def test_the_index_is_graded_on_held_out_views(trained):
    report = grade(read_index_folder(trained / INDEX), read_queries(trained / QUERIES), 5)
    assert report.recall_1 >= 0.9
    assert report.recall_1 <= report.recall_5 <= 1
    assert report.confusion.sum() == 3 * 8 + 12
    assert 0 <= report.pose_error_deg <= 180
    assert [row.n_views for row in report.per_part] == [8, 8, 8]


def test_features_of_transformers_make_an_index_without_training(dataset, params, dino, tmp_path):
    some = params.model_copy(update={"backbone_folder": dino, "image_size": 28})
    session = IndexSession(dataset, tmp_path, some, CPU, cache=tmp_path / "cache", clock_ms=lambda: 0)
    list(session.run())
    list(building(session.views, tmp_path, some, CPU, print))
    index = load_index(tmp_path / INDEX, CPU)
    assert index.stored.search.d == 32
    (found,) = index.name([draw("bar", np.random.default_rng(0))[0]])
    assert found.nearest[0][1] in PARTS
