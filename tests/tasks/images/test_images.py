import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tasks.base.errors import ImageError
from tasks.images.decoding import made_square, resize_rgb
from tasks.images.images import encode_jpeg, read_rgb, write_jpeg


def picture(height=120, width=180, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 5)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_a_png_comes_back_as_it_was(tmp_path):
    rgb = picture()
    read = read_rgb(save(tmp_path / "a.png", rgb))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, rgb)


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "tif"])
def test_other_lossless_formats_come_back_as_they_were(tmp_path, suffix):
    rgb = picture()
    np.testing.assert_array_equal(read_rgb(save(tmp_path / f"a.{suffix}", rgb)), rgb)


def test_colours_of_a_jpeg_are_in_rgb_order(tmp_path):
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    write_jpeg(tmp_path / "red.jpg", red, quality=95)
    assert read_rgb(tmp_path / "red.jpg")[16, 16].tolist() == pytest.approx([254, 0, 0], abs=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", picture(), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.abs(read_rgb(path).astype(int) - expected).max() <= 3  # two JPEG decoders round differently


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_grey_is_repeated_in_three_channels(tmp_path, suffix):
    grey = picture()[..., 0]
    read = read_rgb(save(tmp_path / f"a.{suffix}", grey))
    assert read.shape == (120, 180, 3)
    np.testing.assert_array_equal(read[..., 0], read[..., 2])
    assert np.abs(read[..., 0].astype(int) - grey).max() <= (0 if suffix == "png" else 12)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm", "colour.png", "colour.tif"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path, name):
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), deep[..., 0] if name.startswith("grey") else deep)
    expected = np.repeat(deep[..., :1], 3, axis=2) if name.startswith("grey") else deep[..., ::-1]
    np.testing.assert_array_equal(read_rgb(tmp_path / name), expected >> 8)


def test_transparent_pixels_are_blended_with_black(tmp_path):
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[0, 0, 3], rgba[0, 1, 3], rgba[1:, :, 3] = 0, 128, 255
    read = read_rgb(save(tmp_path / "a.png", rgba))
    assert read[0, 0].tolist() == [0, 0, 0]
    assert read[0, 1].tolist() == pytest.approx([100] * 3, abs=1)
    assert read[2, 2].tolist() == [200, 200, 200]


def test_a_palette_is_looked_up(tmp_path):
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:4] = (10, 200, 30)
    Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), rgb)


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path):
    rgb = picture()
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert cv2.PSNR(read_rgb(tmp_path / "a.jpg"), rgb) > 38


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "ppm"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's own words about the broken TIFF
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix, share):
    path = save(tmp_path / f"cut.{suffix}", picture())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}$"):
        read_rgb(path)


def test_a_truncated_progressive_jpeg_is_refused(tmp_path):
    path = save(tmp_path / "cut.jpg", picture(), progressive=True)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=r"truncated.*cut\.jpg"):
        read_rgb(path)


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "x" + encode_jpeg(picture(16, 16), 50).decode("latin-1")
    path = save(tmp_path / "cut.jpg", picture(), exif=exif)
    assert path.read_bytes().count(b"\xff\xd9") >= 1
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ImageError, match="truncated"):
        read_rgb(path)


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(tmp_path):
    path = save(tmp_path / "a.jpg", picture())
    whole = read_rgb(path)
    path.write_bytes(path.read_bytes() + b"trailer of some camera")
    np.testing.assert_array_equal(read_rgb(path), whole)


def test_a_flipped_byte_in_a_png_is_refused(tmp_path):
    path = save(tmp_path / "a.png", picture())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png$"):
        read_rgb(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^empty file, 0 bytes: .*a\.jpg$"):
        read_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("data", [b"hello, I am text", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(5000)])
def test_what_is_no_picture_is_refused(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg$"):
        read_rgb(tmp_path / "a.jpg")


def bomb(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with pytest.raises(ImageError, match=r"pixels.*bomb\.png$"):
        read_rgb(tmp_path / "bomb.png")


def test_max_pixels_is_inclusive(tmp_path):
    path = save(tmp_path / "a.jpg", picture(10, 20))
    assert read_rgb(path, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ImageError, match="20x10 pixels, need at most 199"):
        read_rgb(path, max_pixels=199)


def test_a_file_larger_than_its_pixels_need_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(ImageError, match="found 3145728 bytes, need at most 1049376"):
        read_rgb(path, max_pixels=100)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="floating point"):
        read_rgb(tmp_path / "a.tif")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="found a pipe, need a plain file"):
        read_rgb(tmp_path / "a.jpg")


def test_a_symbolic_link_is_followed_and_a_broken_one_named(tmp_path):
    save(tmp_path / "a.png", picture())
    (tmp_path / "good.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    assert read_rgb(tmp_path / "good.png").shape == (120, 180, 3)
    with pytest.raises(ImageError, match=r"No such file.*broken\.png$"):
        read_rgb(tmp_path / "broken.png")


def test_a_file_without_permission_is_refused(as_nobody):
    folder, call = as_nobody
    save(folder / "a.png", picture()).chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        call(read_rgb, folder / "a.png")


def test_min_side_reads_a_jpeg_smaller_but_at_least_twice_that_size(tmp_path):
    write_jpeg(tmp_path / "a.jpg", picture(1200, 1800), quality=95)
    assert read_rgb(tmp_path / "a.jpg", min_side=224).shape == (600, 900, 3)
    assert read_rgb(tmp_path / "a.jpg", min_side=700).shape == (1200, 1800, 3)


def test_min_side_changes_little_in_what_is_left_after_shrinking(tmp_path):
    write_jpeg(tmp_path / "a.jpg", picture(600, 900), quality=95)
    full = resize_rgb(read_rgb(tmp_path / "a.jpg"), 112)
    reduced = resize_rgb(read_rgb(tmp_path / "a.jpg", min_side=112), 112)
    assert cv2.PSNR(full, reduced) > 40


@pytest.mark.parametrize("shape", [(50, 70), (10, 12), (64, 64), (200, 8), (1, 1)])
def test_resizing_squashes_to_a_square(shape):
    assert resize_rgb(picture(*shape), 64).shape == (64, 64, 3)


def test_shrinking_averages_over_areas():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert set(resize_rgb(stripes, 32).ravel().tolist()) == {100}


def test_a_jpeg_can_be_read_by_others(tmp_path):
    rgb = picture()
    write_jpeg(tmp_path / "a.jpg", rgb, quality=95)
    assert cv2.PSNR(np.asarray(Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes()))), rgb) > 38


def test_what_is_beside_an_image_in_its_square_is_its_rim():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert made_square(image) is image
    wide = np.arange(15, dtype=np.uint8).reshape(1, 5, 3)
    assert np.array_equal(made_square(wide), np.repeat(wide, 5, axis=0))
    assert np.array_equal(made_square(wide.transpose(1, 0, 2)), np.repeat(wide, 5, axis=0).transpose(1, 0, 2))
