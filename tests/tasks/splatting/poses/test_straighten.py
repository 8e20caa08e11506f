"""Images of known cameras end up in a scene without damage, in COLMAP's process: importing it takes SIGTERM over."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import DatasetError
from tasks.images.images import read_rgb
from tasks.splatting.demo.scene import looking_at
from tasks.splatting.fit.scene import load_image, read_scene
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.colmap_job import ColmapJob
from tasks.splatting.poses.find import adopt_poses

PARAMS = PosesParams(min_registered=3, num_threads=1)
W, H = 160, 120
LENSES = {
    "PINHOLE": [120, 122, 81, 59],
    "SIMPLE_PINHOLE": [120, 80, 60],
    "SIMPLE_RADIAL": [120, 80, 60, -0.2],
    "RADIAL": [120, 81, 58, 0.1, -0.02],
    "OPENCV": [120, 123, 82.5, 58, -0.2, 0.05, 0.002, -0.001],
    "FULL_OPENCV": [120, 120, 80, 60, 0.1, -0.02, 0, 0.001, 0.01, 0, 0, 0],
    "OPENCV_FISHEYE": [80, 80, 80, 60, 0.05, -0.01, 0.002, 0],
    "OPENCV_FISHEYE without distortion": [80, 80, 80, 60, 0, 0, 0, 0],
    "OPENCV without distortion": [120, 122, 81, 59, 0, 0, 0, 0],
}
STRAIGHT = {"PINHOLE", "SIMPLE_PINHOLE", "OPENCV without distortion"}


def bent(name, x, y):
    """Return where rays (x, y, 1) meet the image, by the lens's formula written out; centres at 0.5."""
    model, values = name.split()[0], LENSES[name]
    if model == "OPENCV_FISHEYE":
        r = np.hypot(x, y)
        theta = np.arctan(r)
        powers = sum(k * theta ** (2 * n) for n, k in enumerate(values[4:], 1))
        scale = np.where(r > 0, theta * (1 + powers) / np.maximum(r, 1e-12), 1)
        return values[0] * x * scale + values[2], values[1] * y * scale + values[3]
    single = model.startswith("SIMPLE") or model == "RADIAL"
    fx, fy, cx, cy, *rest = [values[0], *values] if single else values
    if single:
        k1, k2, p1, p2, k3 = [*rest, 0, 0][:2] + [0, 0, 0]
    else:
        k1, k2, p1, p2, k3 = [*rest, 0, 0, 0, 0, 0][:5]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    x, y = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return fx * x + cx, fy * y + cy


def seen(x, y):
    """Return what lies in the direction (x, y, 1): stripes, light everywhere, so that black is seen."""
    return 150 + 40 * np.sin(9 * x) + 40 * np.sin(9 * y)


def painted(name, width=W, height=H):
    """Return the image (H, W, 3) that a lens takes of `seen`; rays are found by iterating."""
    u, v = np.meshgrid((np.arange(width) + 0.5) * W / width, (np.arange(height) + 0.5) * H / height)
    x, y = np.zeros_like(u), np.zeros_like(v)
    for _ in range(200):
        du, dv = bent(name, x, y)
        x, y = x + 0.5 * (u - du) / LENSES[name][0], y + 0.5 * (v - dv) / LENSES[name][0]
    return np.repeat(np.clip(seen(x, y), 0, 255).astype(np.uint8)[..., None], 3, 2)


def known(folder, cameras, files, masks=()):
    """Return a job with images that stand on an arc.

    Args:
        cameras: name of the lens of each image.
        files: the file of each.
    """
    rows = []
    for index, (name, path) in enumerate(zip(cameras, files, strict=True)):
        pose = looking_at(np.array([3.0, 0.5 * index, 1.0]), np.zeros(3)).tolist()
        lens = {"model": name.split()[0], "width": W, "height": H, "params": list(map(float, LENSES[name]))}
        mask = str(masks[index]) if masks else None
        rows.append({"name": path.name, "path": str(path), "mask": mask, "world_to_camera": pose, **lens})
    points = folder / "points.ply"
    points.write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n1 2 3\n"
    )
    (folder / "known.json").write_text(json.dumps({"pictures": rows, "points": str(points)}))
    return ColmapJob(stages=(), folder=str(folder / "out"), known=str(folder / "known.json"), source="known.json")


def straightened(folder, cameras, files, max_side=1000, masks=()):
    report = list(adopt_poses(known(folder, cameras, files, masks), PARAMS, max_side))[-1]
    return read_scene(report.scene).views


def write(folder, cameras, suffix=".png", **size):
    files = []
    for index, name in enumerate(cameras):
        files.append(folder / f"p{index}{suffix}")
        Image.fromarray(painted(name, **size)).save(files[-1])
    return files


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """A scene of all lenses at once, in one model."""
    folder = tmp_path_factory.mktemp("every")
    files = write(folder, LENSES)
    return dict(zip(LENSES, zip(files, straightened(folder, LENSES, files), strict=True), strict=True))


@pytest.mark.parametrize("name", LENSES)
def test_no_pixel_is_trained_on_that_was_not_seen_and_each_shows_its_ray(every, name):
    view = every[name][1]
    loaded = load_image(view, 1000)
    camera = view.camera
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    column, row = bent(name, x, y)
    from_inside = (column > -0.5) & (column < W + 0.5) & (row > -0.5) & (row < H + 0.5)
    counts = np.ones((camera.height, camera.width), bool) if loaded.mask is None else loaded.mask
    assert from_inside[counts].all()
    assert counts.mean() > 0.8
    off = np.abs(loaded.rgb[..., 0].astype(float) - seen(x, y))
    assert off[counts].mean() < 1  # grey levels
    assert np.quantile(off[counts], 0.999) < 8  # the old last row and column were 150 off


@pytest.mark.parametrize("name", LENSES)
def test_what_is_straight_is_the_same_file(every, name):
    source, view = every[name]
    same = view.image.read_bytes() == source.read_bytes()
    assert same == (name in STRAIGHT)
    assert not same or view.image.stat().st_ino == source.stat().st_ino


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_a_picture_of_any_kind_is_linked_and_one_that_is_shrunk_is_written_well(tmp_path, suffix):
    files = write(tmp_path, ["PINHOLE"] * 3, suffix)
    for view, path in zip(straightened(tmp_path, ["PINHOLE"] * 3, files), files, strict=True):
        assert view.image.read_bytes() == path.read_bytes()
    view = straightened(tmp_path, ["PINHOLE"] * 3, files, max_side=80)[0]
    assert (view.camera.width, view.camera.height, view.camera.fx, view.camera.cy) == (80, 60, 60, 29.5)
    small = cv2.resize(read_rgb(files[0]), (80, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(read_rgb(view.image).astype(int) - small).max() <= (3 if suffix == ".jpg" else 0)
    assert view.image.suffix == (".jpg" if suffix == ".jpg" else ".png")


def test_a_jpeg_that_exif_wants_turned_keeps_its_pixels_and_loses_the_wish(tmp_path):
    files = write(tmp_path, ["PINHOLE"] * 3, ".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in files:
        with Image.open(path) as image:
            image.save(path, exif=exif, quality=95)
    before = [path.read_bytes() for path in files]
    views = straightened(tmp_path, ["PINHOLE"] * 3, files)
    assert [path.read_bytes() for path in files] == before
    for view, path in zip(views, files, strict=True):
        np.testing.assert_array_equal(read_rgb(view.image), read_rgb(path, upright=False))
        assert len(view.image.read_bytes()) < path.stat().st_size


@pytest.mark.parametrize("name", ["PINHOLE", "OPENCV"])
def test_pictures_of_another_size_than_their_camera_have_it_scaled(tmp_path, name):
    files = write(tmp_path, [name] * 3) + [tmp_path / "half.png"]
    Image.fromarray(painted(name, W // 2, H // 2)).save(files[-1])
    whole, *_, half = straightened(tmp_path, [name] * 4, files)[::-1]
    assert half.image.name == "half.png"
    assert half.camera.width == pytest.approx(whole.camera.width / 2, abs=1)
    assert half.camera.fx == pytest.approx(whole.camera.fx / 2, rel=0.02)
    assert load_image(half, 1000).rgb.min() > 50


def test_pictures_of_another_shape_than_their_camera_are_refused(tmp_path):
    files = write(tmp_path, ["PINHOLE"] * 3)
    Image.fromarray(painted("PINHOLE", W, W)).save(files[1])
    with pytest.raises(DatasetError, match=r"p1\.png has 160x160 pixels, its camera 160x120"):
        straightened(tmp_path, ["PINHOLE"] * 3, files)


@pytest.mark.parametrize("name", ["PINHOLE", "OPENCV"])
def test_masks_go_with_their_pictures(tmp_path, name):
    files = write(tmp_path, [name] * 3)
    masks = [tmp_path / f"m{index}.png" for index in range(3)]
    white = np.full((H, W), 255, np.uint8)
    white[: H // 2] = 0
    for mask in masks:
        cv2.imwrite(str(mask), white)
    mask = load_image(straightened(tmp_path, [name] * 3, files, masks=masks)[0], 1000).mask
    height = mask.shape[0]
    assert mask[height // 2 + 3 :].all()
    assert not mask[: height // 2 - 3].any()


def test_two_pictures_that_would_share_a_name_are_refused(tmp_path):
    files = write(tmp_path, ["PINHOLE"] * 2) + [tmp_path / "p.tif", tmp_path / "p.tif.png"]
    for path in files[2:]:
        Image.fromarray(painted("PINHOLE")).save(path)
    assert len(straightened(tmp_path, ["PINHOLE"] * 4, files)) == 4
    with pytest.raises(DatasetError, match=r"p\.tif and .*p\.tif\.png would both be called p\.tif\.png"):
        straightened(tmp_path, ["PINHOLE"] * 4, files, max_side=80)
