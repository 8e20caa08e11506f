"""Parts are added to an index without training."""

import numpy as np
import pytest
import torch

from tasks.base.errors import ConfigError
from tasks.base.progress import finish
from tasks.recognition.index.add_parts import adding
from tasks.recognition.index.apply import load_index
from tasks.recognition.index.building import INDEX
from tests.tasks.recognition.index.conftest import add_views, draw, write_poses

CPU = torch.device("cpu")


@pytest.fixture
def new_views(tmp_path):
    def make(drawn, name=None):
        root, rows = tmp_path / "new", []
        add_views(root, drawn, drawn, 20, 5, rows)
        write_poses(root / "poses.csv", [[row[0], name or drawn, *row[2:]] for row in rows])
        return root

    return make


def grown(trained, views, tmp_path, **options):
    target = tmp_path / "grown"
    target.mkdir()
    return target, finish(adding(trained / INDEX, views, target, CPU, **options))


def test_a_part_that_was_added_is_named(trained, new_views, tmp_path):
    target, addition = grown(trained, new_views("dots"), tmp_path)
    index, before = load_index(target, CPU), load_index(trained / INDEX, CPU)
    assert index.parts == ["bar", "disc", "dots", "ring"]
    assert index.stored.search.ntotal == before.stored.search.ntotal + 20
    assert index.stored.config["threshold"] == before.stored.config["threshold"]
    assert addition.recall_1.keys() == {"dots"}
    rng = np.random.default_rng(3)
    crops = [draw("dots", rng)[0] for _ in range(10)]
    assert np.mean([each.nearest[0][1] == "dots" for each in index.name(crops)]) >= 0.8
    assert [each.nearest[0][1] for each in index.name([draw("ring", rng)[0]])] == ["ring"]


def test_a_part_of_a_known_name_is_refused_or_replaced(trained, new_views, tmp_path):
    views = new_views("dots", "disc")
    with pytest.raises(ConfigError, match="has the part.* disc already"):
        finish(adding(trained / INDEX, views, tmp_path, CPU))
    target, addition = grown(trained, views, tmp_path, replace=True)
    index = load_index(target, CPU)
    assert addition.replaced == ["disc"]
    assert index.parts == ["bar", "disc", "ring"]
    assert np.sum(index.stored.labels == 1) == 20


def test_a_name_that_stands_for_no_part_is_refused(trained, new_views, tmp_path):
    with pytest.raises(ConfigError, match="unknown"):
        finish(adding(trained / INDEX, new_views("dots", "unknown"), tmp_path, CPU))
