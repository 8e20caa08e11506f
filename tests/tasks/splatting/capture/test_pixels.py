"""What a JPEG says beside its pixels is taken out, however it is put there."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.images.images import read_rgb
from tasks.splatting.capture.pixels import anonymous, drop_exif
from tests.tasks.splatting.videos import panned, wall


def photograph(**save):
    exif = Image.Exif()
    exif[0x010F] = "the maker"
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    file = io.BytesIO()
    Image.fromarray(panned(0, wall())).save(file, "jpeg", exif=exif, comment=b"by me", **save)
    return file.getvalue()


def stored(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def between_scans(data):
    """Return a progressive JPEG with a comment before its second scan."""
    second = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    return data[:second] + b"\xff\xfe\x00\x0bthe maker" + data[second:]


@pytest.mark.parametrize("n_fill", [0, 1, 5])
@pytest.mark.parametrize("marker", [b"\xff\xe1", b"\xff\xfe", b"\xff\xda"])
def test_fill_bytes_before_a_marker_hide_nothing(tmp_path, n_fill, marker):
    whole = photograph()
    data = whole.replace(marker, b"\xff" * n_fill + marker, 1)
    made = anonymous(data, b"")
    assert made is not None
    assert b"the maker" not in made
    assert b"by me" not in made
    np.testing.assert_array_equal(stored(made), stored(whole))
    (tmp_path / "a.jpg").write_bytes(data)
    drop_exif(tmp_path / "a.jpg")
    assert b"the maker" not in (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), stored(whole))


@pytest.mark.parametrize("marker", [b"\xff\x00", b"\xff\x01", b"\xff\xd8", b"\xff\xd0", b"\x00\x00"])
def test_a_picture_whose_segments_do_not_lead_to_its_pixels_is_written_anew(marker):
    data = photograph().replace(b"\xff\xe1", marker + b"\xff\xe1", 1)
    assert anonymous(data, b"") is None


def test_a_segment_of_no_length_or_beyond_the_end_is_none():
    whole = photograph()
    at = whole.index(b"\xff\xe1")
    for length in (b"\x00\x00", b"\x00\x01", b"\xff\xff"):
        assert anonymous(whole[: at + 2] + length + whole[at + 4 :], b"") is None
    assert anonymous(whole[:at], b"") is None
    assert anonymous(whole[: at + 1], b"") is None


def test_a_damaged_form_does_not_keep_the_exif(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(photograph().replace(b"\xff\xe1", b"\x00\x00\xff\xe1", 1))
    before = read_rgb(path, upright=False)
    drop_exif(path)
    assert b"the maker" not in path.read_bytes()
    assert np.abs(read_rgb(path).astype(int) - before).mean() < 2


def test_a_comment_between_two_scans_is_a_reason_to_write_it_anew():
    data = photograph(progressive=True)
    assert anonymous(data, b"") is not None
    assert anonymous(between_scans(data), b"") is None
