"""An altered view is a function of seed, epoch and sample."""

import numpy as np
import pytest

from tasks.recognition.index.training.augment import augmented


@pytest.fixture
def view():
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def test_the_same_numbers_give_the_same_pixels(view, params):
    strong = params.model_copy(update={"occlusion": 1.0, "blur": 1.0, "turn_deg": 180.0})
    first, again = augmented(view, strong, 3, 5), augmented(view, strong, 3, 5)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, augmented(view, strong, 4, 5))
    assert not np.array_equal(first, augmented(view, strong, 3, 6))
    assert not np.array_equal(first, augmented(view, strong.model_copy(update={"seed": 1}), 3, 5))


def test_without_any_strength_only_noise_and_size_change(params):
    view = np.full((40, 40, 3), 100, dtype=np.uint8)
    view[:, 20:] = 200
    none = params.model_copy(update=dict.fromkeys(("crop_jitter", "color_jitter", "occlusion", "blur", "turn_deg"), 0))
    image = augmented(view, none, 0, 0)
    assert abs(float(image[:, :15].mean()) - 100) < 2
    assert abs(float(image[:, 17:].mean()) - 200) < 2


def test_the_original_stays_as_it_is(view, params):
    before = view.copy()
    augmented(view, params.model_copy(update={"occlusion": 1.0, "image_size": 48}), 0, 0)
    assert np.array_equal(view, before)


def test_images_grow_over_the_first_epochs(view, params):
    grown = params.model_copy(update={"image_size": 96, "start_size": 64, "num_epochs": 10})
    sides = [grown.side_in(epoch) for epoch in range(1, 11)]
    assert sides == [64, 64, 72, 80, 80, 88, 96, 96, 96, 96]
    assert augmented(view, grown, 3, 0).shape == (72, 72, 3)
    assert params.side_in(1) == params.image_size
