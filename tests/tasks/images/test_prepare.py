"""Every image is prepared the same way, whatever it was."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.base.errors import ImageError
from tasks.images.params import PrepareParams
from tasks.images.prepare import bounded, bounded_size, read_prepared

BOUNDS = PrepareParams()


def test_the_bounds_are_those_of_the_service_before():
    assert (BOUNDS.max_side, BOUNDS.max_pixels) == (1024, 1_003_520)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_no_size_is_beyond_the_bounds_and_none_grows(width, height):
    new = bounded_size(width, height, BOUNDS)
    assert max(new) <= 1024
    assert new[0] * new[1] <= 1_003_520
    assert 1 <= new[0] <= width
    assert 1 <= new[1] <= height
    assert bounded_size(*new, BOUNDS) == new
    if max(width, height) <= 1024 and width * height <= 1_003_520:
        assert new == (width, height)


def test_the_pixel_count_binds_where_the_longest_side_does_not():
    assert bounded_size(1024, 1024, BOUNDS) == (1001, 1001)
    assert bounded_size(1800, 1200, BOUNDS) == (1024, 682)


def test_a_picture_within_the_bounds_is_not_touched():
    rgb = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    assert bounded(rgb, BOUNDS) is rgb


def test_bounds_can_be_set(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 400, 3), np.uint8))
    assert read_prepared(tmp_path / "a.png", PrepareParams(max_side=64), None).shape == (16, 64, 3)


def test_pictures_are_turned_as_their_orientation_says(tmp_path):
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_prepared(tmp_path / "a.jpg", BOUNDS, None).shape == (60, 40, 3)


@pytest.mark.parametrize(
    ("mode", "value", "seen"), [("L", 7, 7), ("I;16", 7 * 256 + 3, 7), ("RGBA", (7, 7, 7, 255), 7)]
)
def test_every_depth_and_number_of_channels_becomes_8_bit_rgb(tmp_path, mode, value, seen):
    Image.new(mode, (8, 6), value).save(tmp_path / "a.png")
    rgb = read_prepared(tmp_path / "a.png", BOUNDS, None)
    assert (rgb.shape, rgb.dtype) == ((6, 8, 3), np.uint8)
    assert (rgb == seen).all()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 255, (12, 18, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.resize(coarse, (1800, 1200), interpolation=cv2.INTER_LINEAR))
    small = read_prepared(tmp_path / "a.jpg", BOUNDS, 224)
    full = read_prepared(tmp_path / "a.jpg", BOUNDS, None)
    assert small.shape == (600, 900, 3)
    assert full.shape == (682, 1024, 3)
    both = [cv2.resize(rgb, (224, 224), interpolation=cv2.INTER_AREA).astype(int) for rgb in (small, full)]
    assert np.abs(both[0] - both[1]).mean() < 1


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(ImageError, match=r"a\.jpg$"):
        read_prepared(tmp_path / "a.jpg", BOUNDS, None)
