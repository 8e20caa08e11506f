"""The estimate of a scene's images is near what they take."""

import cv2
import numpy as np
import pytest

from tasks.housekeeping.removal import disk_usage
from tasks.splatting.capture.disk_need import frames_need
from tasks.splatting.capture.frames import extract_frames
from tasks.splatting.params import FramesParams


@pytest.fixture
def photos(tmp_path):
    """Twelve photographs of 640x480 with structure at all scales, as of walls and leaves."""
    (tmp_path / "photos").mkdir()
    for number in range(12):
        rng, pixels = np.random.default_rng(number), np.zeros((480, 640, 3))
        for scale in (1, 2, 4, 16, 64):
            small = rng.normal(0, 4 * scale**0.5, (480 // scale, 640 // scale, 3))
            pixels += cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), np.clip(pixels + 128, 0, 255).astype(np.uint8))
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("params", "n", "size"), [({}, 12, "640 x 480"), ({"n_frames": 5, "max_side": 320}, 5, "320 x 240")]
)
def test_images_and_their_copies_take_about_what_was_said(photos, tmp_path, params, n, size):
    chosen = FramesParams(**params)
    need = frames_need(photos, chosen)
    assert need.what == f"{n} images of {size} pixels and their undistorted copies"
    list(extract_frames(photos, tmp_path / "out", chosen))
    assert 0.4 < need.bytes / (2 * disk_usage(tmp_path / "out")) < 2


def test_of_cameras_that_are_known_nothing_is_said(tmp_path):
    (tmp_path / "transforms.json").write_text("{}")
    assert frames_need(tmp_path, FramesParams()).bytes == 0
