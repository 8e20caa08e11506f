"""The gallery is a fair sample of any number of answers, and the timeline shows every one."""

import numpy as np

from tasks.images.figures import save
from tasks.inference.gallery import Gallery, in_proportion, timeline_figure
from tasks.inference.predictor import Answer


def fill(n):
    gallery = Gallery()
    for i in range(n):
        pixels = np.full((8, 8, 3), i % 256, np.uint8)
        gallery.add(
            Answer("x", None, np.zeros(2, np.float32), pixels, (30, 20), 0, None), {"class": str(i), "probability": 0.5}
        )
    return gallery


def test_all_of_a_few_answers_are_shown_in_order():
    assert fill(5).captions == [f"{i}\n50%" for i in range(5)]


def test_of_many_answers_a_sample_is_shown_from_the_whole_of_them():
    shown = [int(caption.split("\n")[0]) for caption in fill(2000).captions]
    assert len(shown) == 24
    assert 600 < np.mean(shown) < 1400
    assert fill(2000).captions == fill(2000).captions


def test_an_answer_without_a_picture_is_not_shown():
    gallery = Gallery()
    gallery.add(Answer("x", None, None, None, (0, 0), 0, "damaged"), {"class": None, "probability": None})
    assert gallery.images == []


def test_pictures_get_their_proportions_back():
    assert in_proportion(np.zeros((32, 32, 3), np.uint8), (1800, 1200)).shape == (171, 256, 3)
    assert in_proportion(np.zeros((32, 32, 3), np.uint8), (5000, 1)).shape == (1, 256, 3)


def test_the_timeline_has_a_row_per_class_and_a_dot_per_picture(tmp_path):
    figure = timeline_figure([0.0, 0.1, 0.2], ["calm", "$loud", "calm"], [0.5, 0.9, 1.0])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"\$loud", "calm"]
    assert axes.collections[0].get_offsets().tolist() == [[0, 1], [0.1, 0], [0.2, 1]]
    save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
