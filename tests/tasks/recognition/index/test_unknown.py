"""From when on a part counts as known."""

import json

import numpy as np
import pytest

from tasks.base.errors import WeightsError
from tasks.recognition.index.index_folder import read_index_config
from tasks.recognition.index.unknown import part_levels


def test_a_level_is_the_cosine_that_nine_of_ten_views_reach():
    angles = np.radians([*range(0, 90, 10), 180])  # nine in a row, 10 degrees apart, and one far away
    tight = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    alone = np.array([[0, 0, 1.0]])
    vectors = np.concatenate([tight, alone]).astype(np.float32)

    first, single = part_levels(vectors, np.array([0] * 10 + [1]), 2)

    nearest = np.cos(np.radians([10] * 9 + [100]))
    assert first == pytest.approx(np.quantile(nearest, 0.1), abs=1e-5)
    assert single == first  # the mean of the others


def test_without_two_views_of_any_part_a_score_is_the_cosine():
    assert part_levels(np.eye(2, dtype=np.float32), np.array([0, 1]), 2) == [1.0, 1.0]


@pytest.mark.parametrize("levels", [[0.9], "high", [0.9, None]])
def test_levels_that_do_not_fit_the_parts_are_refused(levels, tmp_path):
    config = {"backbone": "small", "dimension": 8, "quarter_turns": True, "mean": [], "std": [], "image_size": 32}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "parts": ["a", "b"], "threshold": 0.5, "n_nearest": 3, "levels": levels}))

    with pytest.raises(WeightsError, match="levels"):
        read_index_config(path)
