from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from tasks.recognition.coco.annotations import AnnotatedImage, Annotation
from tasks.recognition.detector.squaring import squared
from tasks.recognition.detector.training.augment import boxes_of, pixels_of, plain, plan, trained_size
from tasks.recognition.detector.training.scenes import Scenes


@dataclass(frozen=True)
class Settings:
    image_size: int = 64
    num_epochs: int = 100
    window: int = 0
    scale_jitter: float = 0.4
    color_jitter: float = 0.0
    horizontal_flip: bool = False
    mosaic: float = 0.0

    @property
    def trained_window(self):
        return self.window


BOXES = [(10, 8, 30, 24), (60, 30, 90, 44)]


@pytest.fixture
def scenes(tmp_path):
    """Scenes of 100x50 pixels: a red and a green box on black, and a crowd that nobody sees."""
    pixels = np.zeros((50, 100, 3), np.uint8)
    annotations = []
    for label, (left, top, right, bottom) in enumerate(BOXES):
        pixels[top:bottom, left:right, label] = 255
        annotations.append(Annotation(label, (left, top, right, bottom), 1.0))
    annotations.append(Annotation(0, (0, 0, 5, 5), 1.0, crowd=True))
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    return Scenes([AnnotatedImage(tmp_path / "a.png", 100, 50, tuple(annotations))] * 4, 64, keep=True)


def fits(pixels, box, label):
    """Return whether the colour of a part fills its box and little around it."""
    left, top, right, bottom = (round(float(value)) for value in box)
    mask = pixels[..., label].astype(float) - pixels[..., 1 - label] > 60
    inside = mask[top:bottom, left:right].mean()
    outside = mask.sum() - mask[top:bottom, left:right].sum()
    return inside > 0.8 and outside < 0.25 * mask.sum()


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(horizontal_flip=True), Settings(window=32), Settings(window=32, scale_jitter=1.0)]
)
def test_boxes_lie_where_their_parts_are_drawn(scenes, settings):
    size, n = trained_size(settings, 1), 0
    for epoch in range(20):
        tiles = plan(0, epoch, epoch % 4, scenes, settings)
        pixels = pixels_of(tiles, scenes, size)
        boxes, labels = boxes_of(tiles, scenes, size)
        assert pixels.shape == (size, size, 3)
        assert all(fits(pixels, box, label) for box, label in zip(boxes, labels, strict=True))
        n += len(boxes)
    assert n > 15


def test_the_same_seed_epoch_and_sample_give_the_same_bytes(scenes):
    settings = Settings(mosaic=0.5, color_jitter=0.5, horizontal_flip=True)
    made = [pixels_of(plan(1, 2, sample, scenes, settings), scenes, 64) for sample in (0, 1, 2, 3)]
    again = [pixels_of(plan(1, 2, sample, scenes, settings), scenes, 64) for sample in (3, 2, 1, 0)][::-1]
    assert all((a == b).all() for a, b in zip(made, again, strict=True))
    other = pixels_of(plan(1, 3, 0, scenes, settings), scenes, 64)
    assert (other != made[0]).any()


def test_a_mosaic_has_the_parts_of_four_scenes_in_their_quarters(scenes):
    tiles = plan(0, 1, 0, scenes, Settings(mosaic=1.0, scale_jitter=0))
    boxes, labels = boxes_of(tiles, scenes, 64)
    assert len(tiles) == 4
    assert len(boxes) == 8
    pixels = pixels_of(tiles, scenes, 64)
    for box, label in zip(boxes, labels, strict=True):
        left, top, right, bottom = (round(float(value)) for value in box)
        assert pixels[top:bottom, left:right, label].mean() > 180


def test_a_scene_as_it_is_used_is_that_of_the_served_detector(scenes):
    raw = scenes.read(0)
    assert (pixels_of(plain(0), scenes, 64) == squared(raw, 64)).all()
    boxes, _ = boxes_of(plain(0), scenes, 64)
    assert boxes == pytest.approx(np.array(BOXES) * 0.64, abs=1e-4)


def test_the_last_fifth_of_the_epochs_sees_whole_scenes():
    settings = Settings(window=32, num_epochs=10)
    assert [trained_size(settings, epoch) for epoch in range(1, 11)] == [32] * 8 + [64] * 2


def test_a_window_shows_a_part(scenes):
    settings = Settings(window=32)
    seen = [len(boxes_of(plan(0, epoch, 0, scenes, settings), scenes, 32)[0]) for epoch in range(30)]
    assert min(seen) >= 1
