"""What an index sees of a detector's box is what it was trained on, and a part has one box."""

import numpy as np

from tasks.inference.parts import cut_as_rendered, once_each
from tasks.inference.predictor import Region


def test_an_index_sees_a_square_with_room_around_the_part():
    rgb = np.zeros((100, 200, 3), np.uint8)
    rgb[40:50, 80:120] = 255
    seen = cut_as_rendered(rgb, Region(80 / 200, 40 / 100, 120 / 200, 50 / 100, 1))
    assert seen.shape == (47, 47, 3)  # 18 % more than its longer side
    rows, columns = np.nonzero(seen[..., 0])
    assert (rows.max() - rows.min(), columns.max() - columns.min()) == (9, 39)  # its sides in proportion
    assert abs(rows.mean() - 23) <= 1
    assert abs(columns.mean() - 23) <= 1


def test_beyond_the_rim_of_an_image_its_last_pixels_go_on():
    rgb = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 10, 3), np.uint8)
    seen = cut_as_rendered(rgb, Region(0, 0, 1, 0.1, 1))  # ten across, two down, at the upper rim
    assert seen.shape == (12, 12, 3)
    assert seen[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]


def test_a_part_that_is_found_under_two_names_keeps_its_surer_box():
    sure, again, beside = (
        Region(0, 0, 0.5, 0.5, 0.9, "a"),
        Region(0, 0, 0.5, 0.45, 0.8, "b"),
        Region(0.3, 0, 0.8, 0.5, 0.7),
    )
    assert once_each([sure, again, beside]) == [sure, beside]
