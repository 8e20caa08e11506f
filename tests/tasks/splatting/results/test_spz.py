"""The SPZ file says the same as the splat, to a reader written from the format's description alone.

Source: github.com/nianticlabs/spz README.md, section File Format, and the unpacking in src/cc/load-spz.cc at 21715c3.
"""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.geometry.rotations import rotation_matrix
from tasks.splatting.results.spz import write_spz
from tests.tasks.splatting.export_scene import splat

# Which harmonics change sign when y and z do: those with an odd number of y and z together.
SIGN = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])


@dataclass
class Point:
    position: list[float]
    rotation: list[float]  # x y z w
    scales: list[float]
    alpha: float
    color: list[float]
    sh: list[float]


def read(path: Path) -> tuple[dict[str, int], list[Point]]:
    """Decode one value after the other, as slow as it is plain."""
    data = gzip.decompress(path.read_bytes())
    names = ("magic", "version", "n", "degree", "bits", "flags", "reserved")
    head = dict(zip(names, struct.unpack("<IIIBBBB", data[:16]), strict=True))
    n, n_sh = head["n"], 3 * ((head["degree"] + 1) ** 2 - 1)
    sizes, at, part = {"position": 9, "alpha": 1, "color": 3, "scale": 3, "rotation": 4, "sh": n_sh}, 16, {}
    for name, size in sizes.items():
        part[name] = [data[at + i * size : at + (i + 1) * size] for i in range(n)]
        at += n * size
    assert at == len(data)
    points = []
    for i in range(n):
        triples = [part["position"][i][k : k + 3] for k in (0, 3, 6)]
        points.append(
            Point(
                [int.from_bytes(three, "little", signed=True) / 2 ** head["bits"] for three in triples],
                quaternion_of(struct.unpack("<I", part["rotation"][i])[0]),
                [byte / 16 - 10 for byte in part["scale"][i]],
                part["alpha"][i][0] / 255,
                [(byte / 255 - 0.5) / 0.15 for byte in part["color"][i]],
                [(byte - 128) / 128 for byte in part["sh"][i]],
            )
        )
    return head, points


def quaternion_of(word: int) -> list[float]:
    largest, found = word >> 30, [0.0] * 4
    for i in (3, 2, 1, 0):
        if i != largest:
            size = (word & 511) / 511 / 2**0.5
            found[i] = -size if word & 512 else size
            word >>= 10
    found[largest] = (1 - sum(value**2 for value in found)) ** 0.5
    return found


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_value_comes_back_within_half_a_step(tmp_path, degree):
    gaussians = splat(200, degree)
    assert write_spz(gaussians, tmp_path / "a.spz") == 0
    head, points = read(tmp_path / "a.spz")
    assert (head["magic"], head["version"], head["n"], head["degree"]) == (0x5053474E, 3, 200, degree)
    assert (head["flags"], head["reserved"]) == (0, 0)
    flip = np.array([1, -1, -1])
    means = np.array([point.position for point in points]) * flip
    assert np.abs(means - gaussians.means.numpy()).max() <= 0.51 / 2 ** head["bits"]
    assert np.abs(np.array([p.scales for p in points]) - gaussians.scales.numpy()).max() <= 0.5001 / 16
    opacity = 1 / (1 + np.exp(-gaussians.opacities.double().numpy()))
    assert np.abs(np.array([p.alpha for p in points]) - opacity).max() <= 0.5001 / 255
    color = np.array([p.color for p in points])
    assert np.abs(color - gaussians.sh0[:, 0].numpy()).max() <= 0.5001 / 255 / 0.15
    if degree:
        sh = np.array([p.sh for p in points]).reshape(200, -1, 3) * SIGN[: (degree + 1) ** 2 - 1, None]
        off = np.abs(sh - gaussians.shN.numpy().clip(-1, 0.99))
        assert off[:, :3].max() <= 4.51 / 128  # 5 bits of 8: buckets of 8 steps
        assert off.max() <= 8.51 / 128  # 4 bits


def test_rotations_are_right_within_a_quarter_of_a_degree(tmp_path):
    gaussians = splat(300, 0)
    write_spz(gaussians, tmp_path / "a.spz")
    flip = np.diag([1, -1, -1])
    for point, quat in zip(read(tmp_path / "a.spz")[1], gaussians.quats.double().numpy(), strict=True):
        x, y, z, w = point.rotation
        expected = flip @ rotation_matrix(quat / np.linalg.norm(quat))
        # The half turn of the axes may stand on either side: an ellipsoid is the same after it.
        found = rotation_matrix(np.array([w, x, y, z]))
        angles = [
            np.degrees(np.arccos(np.clip((np.trace(found.T @ r) - 1) / 2, -1, 1))) for r in (expected, expected @ flip)
        ]
        assert min(angles) < 0.27


def test_a_scene_of_any_size_has_as_many_bits_behind_the_point_as_fit(tmp_path):
    gaussians = splat(10, 0)
    for factor, bits in ((1.0, 16), (1000.0, 12), (100000.0, 6)):
        gaussians.means *= factor / gaussians.means.abs().max()
        write_spz(gaussians, tmp_path / "a.spz")
        head, points = read(tmp_path / "a.spz")
        found = np.array([point.position for point in points]) * [1, -1, -1]
        assert head["bits"] == bits or head["bits"] == bits + 1
        assert np.abs(found - gaussians.means.numpy()).max() <= 0.51 / 2 ** head["bits"] + 1e-6 * factor


def test_what_is_too_far_out_is_said(tmp_path):
    gaussians = splat(2, 0)
    gaussians.means[0, 0] = 1e7
    with pytest.raises(DatasetError, match=r"a\.spz: a Gaussian is 1e\+07 from the origin"):
        write_spz(gaussians, tmp_path / "a.spz")


def test_the_flag_of_antialiasing_and_what_was_left_out(tmp_path):
    gaussians = splat(4, 0)
    gaussians.opacities[3] = float("nan")
    assert write_spz(gaussians, tmp_path / "a.spz", antialiased=True) == 1
    head, points = read(tmp_path / "a.spz")
    assert (head["flags"], len(points)) == (1, 3)


def test_extremes_are_held_at_the_ends_of_the_range(tmp_path):
    gaussians = splat(2, 1)
    gaussians.scales[0], gaussians.scales[1] = -50, 50
    gaussians.shN[:] = 7
    gaussians.sh0[:] = -40
    write_spz(gaussians, tmp_path / "a.spz")
    low, high = read(tmp_path / "a.spz")[1]
    assert low.scales == [-10] * 3
    assert high.scales == [255 / 16 - 10] * 3
    assert low.color == pytest.approx([-0.5 / 0.15] * 3)
    assert [abs(value) for value in low.sh] == pytest.approx([1] * 9, abs=0.01)


def test_the_same_splat_gives_the_same_bytes(tmp_path):
    for name in ("a.spz", "b.spz"):
        write_spz(splat(20, 1), tmp_path / name)
    assert (tmp_path / "a.spz").read_bytes() == (tmp_path / "b.spz").read_bytes()
