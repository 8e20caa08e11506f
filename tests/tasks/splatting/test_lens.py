import cv2
import numpy as np
import pytest

from tasks.splatting.lens import Lens, undistorter

LENSES = {
    "barrel": Lens(320, 240, 250, 255, 165.5, 118.0, (-0.2, 0.05, 0.002, -0.001, 0.0), False),
    "pincushion": Lens(320, 240, 250, 255, 155.0, 121.0, (0.1, -0.02, 0.0, 0.001, 0.0), False),
    "fisheye": Lens(320, 240, 160, 160, 160.0, 120.0, (0.05, -0.01, 0.002, 0.0), True),
}


def distorted_pixels(lens, x, y):
    """Return where rays (x, y, 1) meet the picture, by the lens's formula written out; centres at 0.5."""
    if lens.fisheye:
        r = np.hypot(x, y)
        theta = np.arctan(r)
        k1, k2, k3, k4 = lens.distortion
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        scale = np.where(r > 0, bent / np.maximum(r, 1e-12), 1)
        x, y = x * scale, y * scale
    else:
        k1, k2, p1, p2, k3 = lens.distortion
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )
    return lens.fx * x + lens.cx, lens.fy * y + lens.cy


def rays(maker, lens):
    columns, rows = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
    return (columns - maker.cx) / maker.fx, (rows - maker.cy) / maker.fy


@pytest.mark.parametrize("name", LENSES)
def test_each_straight_pixel_comes_from_where_its_ray_met_the_picture(name):
    lens = LENSES[name]
    maker = undistorter(lens)
    columns, rows = distorted_pixels(lens, *rays(maker, lens))
    np.testing.assert_allclose(maker.columns + 0.5, columns, atol=0.01)  # pixels
    np.testing.assert_allclose(maker.rows + 0.5, rows, atol=0.01)


@pytest.mark.parametrize("name", ["barrel", "pincushion"])
def test_no_pixel_comes_from_outside_the_picture(name):
    lens = LENSES[name]
    maker = undistorter(lens)
    assert -1 < maker.columns.min() <= maker.columns.max() < lens.width
    assert -1 < maker.rows.min() <= maker.rows.max() < lens.height
    assert maker.mask(np.full((lens.height, lens.width), 255, np.uint8)).min() == 255


@pytest.mark.parametrize("name", LENSES)
def test_what_was_painted_through_the_lens_comes_out_straight(name):
    lens = LENSES[name]
    maker = undistorter(lens)
    x, y = rays(maker, lens)
    want = (127 + 60 * np.sin(14 * x) + 60 * np.sin(14 * y)).astype(np.float32)
    # Paint: for each pixel of the lens's picture find its ray by going the formula's way on a fine grid of rays.
    matrix = np.array([[lens.fx, 0, lens.cx - 0.5], [0, lens.fy, lens.cy - 0.5], [0, 0, 1]])
    pixels = (
        np.stack(np.meshgrid(np.arange(lens.width), np.arange(lens.height)), -1).reshape(-1, 1, 2).astype(np.float64)
    )
    undo = cv2.fisheye.undistortPoints if lens.fisheye else cv2.undistortPoints
    seen = undo(pixels, matrix, np.array(lens.distortion)).reshape(lens.height, lens.width, 2)
    painted = 127 + 60 * np.sin(14 * seen[..., 0]) + 60 * np.sin(14 * seen[..., 1])
    rgb = np.clip(painted, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    inner = (slice(20, -20), slice(20, -20))
    assert np.abs(maker.picture(rgb)[..., 0].astype(float) - want)[inner].mean() < 1.5  # grey levels


def test_a_resized_lens_sees_the_same():
    lens = LENSES["barrel"]
    small = lens.resized(160, 120)
    columns, rows = distorted_pixels(lens, 0.3, -0.2)
    assert distorted_pixels(small, 0.3, -0.2) == pytest.approx((columns / 2, rows / 2))


def test_a_lens_without_distortion_is_plain():
    assert Lens(10, 10, 5, 5, 5, 5, (0, 0, 0, 0, 0), False).plain
    assert not any(lens.plain for lens in LENSES.values())
