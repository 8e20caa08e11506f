import cv2
import numpy as np
import pytest

from tasks.splatting.capture.sharpness import SAME_SHIFT, look, same_view, shift
from tests.tasks.splatting.videos import wall

WALL = wall(side=960)[:640]


def seen(shift_px, noise=0.0, gain=1.0, seed=0):
    move = np.array([[1, 0, -shift_px], [0, 1, 0]], np.float64)
    picture = cv2.warpAffine(WALL, move, (960, 640), borderMode=cv2.BORDER_REFLECT) * gain
    noisy = picture + np.random.default_rng(seed).normal(0, noise, picture.shape)
    return look(np.clip(noisy, 0, 255).astype(np.uint8))


def test_blur_lowers_sharpness():
    sharp = look(WALL).sharpness
    blurred = [look(np.asarray(cv2.GaussianBlur(WALL, (0, 0), sigma))).sharpness for sigma in (2, 4, 8)]
    assert sharp > 1.2 * blurred[0] > 1.44 * blurred[1] > 1.728 * blurred[2] > 0


def test_sharpness_hardly_depends_on_the_size_of_the_picture():
    large = np.asarray(cv2.resize(WALL, (1920, 1280), interpolation=cv2.INTER_CUBIC))
    assert look(large).sharpness == pytest.approx(look(WALL).sharpness, rel=0.05)


@pytest.mark.parametrize("moved_px", [1.0, 3.0, 10.0, 30.0])
def test_a_shift_is_told_as_a_share_of_the_longest_side(moved_px):
    assert shift(seen(0).grey, seen(moved_px).grey) == pytest.approx(moved_px / 960, rel=0.1)


@pytest.mark.parametrize("noise", [0, 5, 25])
def test_noise_alone_is_the_same_view(noise):
    assert same_view(seen(0, noise, seed=1).grey, seen(0, noise, seed=2).grey)
    assert shift(seen(0, noise, seed=1).grey, seen(0, noise, seed=2).grey) < SAME_SHIFT / 4


@pytest.mark.parametrize("gain", [0.6, 0.8])
def test_a_change_of_exposure_is_the_same_view(gain):
    assert same_view(seen(0, 3, seed=1).grey, seen(0, 3, gain, seed=2).grey)


@pytest.mark.parametrize("moved_px", [3, 10, 100])
def test_slow_motion_is_another_view(moved_px):
    assert not same_view(seen(0, 5, seed=1).grey, seen(moved_px, 5, seed=2).grey)


def test_another_scene_is_another_view():
    assert not same_view(look(wall(1)).grey, look(wall(2)).grey)


def test_pictures_of_two_sizes_are_never_the_same_view():
    assert not same_view(look(WALL).grey, look(WALL[:400]).grey)


def test_without_corners_the_brightness_decides():
    ramp = np.repeat(np.linspace(0, 255, 960, dtype=np.uint8)[None, :, None], 640, 0).repeat(3, 2)
    assert same_view(look(ramp).grey, look(ramp).grey)
    assert not same_view(look(ramp).grey, look(np.ascontiguousarray(ramp[:, ::-1])).grey)


@pytest.mark.parametrize(
    ("level", "noise", "flaw"), [(0, 0, "black"), (4, 2, "black"), (128, 0, "flat"), (128, 6, "flat")]
)
def test_black_and_flat_pictures_are_flawed_through_noise(level, noise, flaw):
    picture = level + np.random.default_rng(0).normal(0, noise, (480, 640, 3))
    assert look(np.clip(picture, 0, 255).astype(np.uint8)).flaw == flaw


def test_a_dark_picture_with_something_in_it_is_not_flawed():
    assert look((WALL // 6).astype(np.uint8)).flaw == ""
