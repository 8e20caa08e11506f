import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import DatasetError, ImageError
from tasks.images.crop import crop_tree
from tasks.images.images import read_rgb


def save(path, height=40, width=60, seed=0):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return rgb


def test_a_tree_keeps_its_structure(tmp_path, target):
    a = save(tmp_path / "source/dji/a.png", seed=1)
    b = save(tmp_path / "source/fpv/deep/b.bmp", seed=2)
    (tmp_path / "source/notes.txt").write_text("not an image")
    assert crop_tree(tmp_path / "source", target, x=5, y=3, width=20, height=10) == 2
    np.testing.assert_array_equal(read_rgb(target / "dji/a.png"), a[3:13, 5:25])
    np.testing.assert_array_equal(read_rgb(target / "fpv/deep/b.bmp"), b[3:13, 5:25])
    assert sorted(p.name for p in target.rglob("*.*")) == ["a.png", "b.bmp"]


def test_one_file_keeps_its_name(tmp_path, target):
    rgb = save(tmp_path / "a.png")
    assert crop_tree(tmp_path / "a.png", target, x=0, y=0, width=60, height=40) == 1
    np.testing.assert_array_equal(read_rgb(target / "a.png"), rgb)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "ppm", "pgm"])
def test_every_format_is_written_as_itself(tmp_path, target, suffix):
    Image.fromarray(np.full((20, 20), 77, np.uint8)).save(tmp_path / f"a.{suffix}")
    crop_tree(tmp_path / f"a.{suffix}", target, x=2, y=2, width=8, height=6)
    assert np.abs(read_rgb(target / f"a.{suffix}").astype(int) - 77).max() <= 1
    assert cv2.imread(str(target / f"a.{suffix}")).shape == (6, 8, 3)


@pytest.mark.parametrize("box", [(41, 0, 20, 10), (0, 31, 20, 10), (-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 61, 1)])
def test_a_box_outside_names_file_size_and_box(tmp_path, target, box):
    save(tmp_path / "source/a.png")
    x, y, width, height = box
    expected = rf"box x={x} y={y} width={width} height={height} reaches outside the 60x40 image: .*a\.png$"
    with pytest.raises(ImageError, match=expected):
        crop_tree(tmp_path / "source", target, *box)


def test_an_empty_box_is_refused(tmp_path, target):
    with pytest.raises(ValueError, match="box of 0x5, need at least 1x1"):
        crop_tree(tmp_path, target, x=0, y=0, width=0, height=5)


def test_a_folder_without_images_is_refused(tmp_path, target):
    with pytest.raises(DatasetError, match="found no image to crop"):
        crop_tree(target, target, x=0, y=0, width=1, height=1)


def test_a_missing_source_is_refused(tmp_path, target):
    with pytest.raises(DatasetError, match=r"found nothing.*gone$"):
        crop_tree(tmp_path / "gone", target, x=0, y=0, width=1, height=1)


@pytest.mark.parametrize("name", ["picture", "a.jfif"])
def test_a_picture_without_the_suffix_of_a_format_is_named(tmp_path, target, name):
    save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    with pytest.raises(ImageError, match=rf"cannot write 5x5 pixels as .*, need one of .*\.jpg.*{name}$"):
        crop_tree(tmp_path / name, target, x=0, y=0, width=5, height=5)
