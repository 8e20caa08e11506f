"""A JPEG that is damaged in its middle is noticed, though every decoder shows it as if it were whole."""

import hashlib
import io
import os
import signal

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import ImageError
from tasks.images.images import read_rgb
from tasks.images.jpeg_check import Checkers


@pytest.fixture(scope="module")
def checkers():
    with Checkers(1) as found:
        yield found


def jpeg(seed: int = 0, **options) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 3)).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def zeroed(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes(512) + data[at + 512 :]


def with_a_hole(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + data[at + 300 :]


def overwritten(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + np.random.default_rng(0).bytes(512) + data[at + 512 :]


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 8}], ids=str)
@pytest.mark.parametrize("harm", [zeroed, with_a_hole, overwritten])
def test_a_jpeg_damaged_in_its_middle_is_refused_by_name(tmp_path, checkers, harm, options):
    (tmp_path / "hurt.jpg").write_bytes(harm(jpeg(**options)))
    assert read_rgb(tmp_path / "hurt.jpg").shape == (240, 320, 3)  # no decoder complains
    with pytest.raises(ImageError, match=r"^damaged JPEG, .*hurt\.jpg$"):
        checkers.check(tmp_path / "hurt.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}], ids=str)
def test_a_whole_jpeg_passes_and_its_digest_is_that_of_its_bytes(tmp_path, checkers, options):
    data = jpeg(**options)
    (tmp_path / "whole.jpg").write_bytes(data)
    assert checkers.check(tmp_path / "whole.jpg") == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_a_few_bytes_too_many_as_some_cameras_write_them_do_no_harm(tmp_path, checkers):
    (tmp_path / "camera.jpg").write_bytes(jpeg()[:-2] + b"\0\0\0" + b"\xff\xd9")
    assert checkers.check(tmp_path / "camera.jpg")


def test_an_odd_name_is_no_hindrance(tmp_path, checkers):
    path = tmp_path / os.fsdecode(b"a\nb\xff.jpg")
    path.write_bytes(jpeg())
    assert checkers.check(path)
    path.write_bytes(jpeg()[:1000])
    with pytest.raises(ImageError, match="truncated"):
        checkers.check(path)


def test_a_picture_that_is_no_jpeg_needs_no_process(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Checkers(2) as checkers:
        assert checkers.check(tmp_path / "a.png")
        assert not checkers._started


def test_a_file_that_ends_its_process_is_named_and_the_next_one_is_checked(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with Checkers(1) as checkers:
        assert checkers.check(tmp_path / "a.jpg")
        os.kill(checkers._started[0].pid, signal.SIGKILL)
        with pytest.raises(ImageError, match=r"the process that decoded it ended with -9: .*a\.jpg"):
            checkers.check(tmp_path / "a.jpg")
        assert checkers.check(tmp_path / "a.jpg")
        assert len(checkers._started) == 2
    assert all(process.returncode is not None for process in checkers._started)
