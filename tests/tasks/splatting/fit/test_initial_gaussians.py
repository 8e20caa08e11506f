"""The first Gaussians: at the points, as wide as their neighbours are away, in their colours."""

import numpy as np
import pytest
import torch

from tasks.base.errors import DatasetError
from tasks.geometry.harmonics import C0
from tasks.splatting.fit.initial_gaussians import neighbour_distances, start_gaussians
from tasks.splatting.fit.presets import settings
from tasks.splatting.params import SplatParams


def chosen(**values):
    return settings(SplatParams(preset="quick", **values), "cpu")


def grid(n: int) -> np.ndarray:
    axis = np.arange(n, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)


def test_distances_are_the_root_mean_square_of_the_three_nearest():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [50, 50, 50]], np.float32)
    assert neighbour_distances(points)[0] == pytest.approx(np.sqrt((1 + 4 + 9) / 3))


def test_gaussians_stand_at_the_points_in_their_colours():
    points = grid(3) * 0.5
    colors = np.random.default_rng(0).integers(0, 256, (27, 3), dtype=np.uint8)
    found = start_gaussians(points, colors, 1.0, chosen(init_scale=2.0, init_opa=0.3, sh_degree=2))
    assert torch.equal(found.means, torch.from_numpy(points))
    np.testing.assert_allclose(found.sh0[:, 0].numpy() * C0 + 0.5, colors / 255, atol=1e-6)
    np.testing.assert_allclose(torch.exp(found.scales).numpy(), 1.0, rtol=1e-6)  # neighbours at 0.5, twice that
    np.testing.assert_allclose(torch.sigmoid(found.opacities).numpy(), 0.3, rtol=1e-6)
    assert found.shN.shape == (27, 8, 3)
    assert not found.shN.any()


def test_points_beyond_the_cap_are_thinned_out_the_same_way_each_time():
    points, colors = grid(6), np.zeros((216, 3), np.uint8)
    first, second = (start_gaussians(points, colors, 1.0, chosen(cap_max=100)) for _ in range(2))
    assert len(first) == 100
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items())
    other = start_gaussians(points, colors, 1.0, chosen(cap_max=100, seed=1))
    assert not torch.equal(first.means, other.means)


def test_points_found_twice_have_a_size():
    points = np.concatenate([grid(3)] * 5)
    assert (neighbour_distances(points) > 0).sum() == len(points)


def test_a_random_start_fills_the_cube_and_needs_no_points():
    values = chosen(init_type="random", init_num_pts=500, init_extent=2.0)
    found = start_gaussians(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), 1.5, values)
    assert len(found) == 500
    assert 2.5 < float(found.means.abs().max()) <= 3.0


def test_without_any_point_the_start_is_a_random_one():
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    given, without = chosen(init_type="random", init_num_pts=500), chosen(init_type="sfm", init_num_pts=500)
    assert torch.equal(start_gaussians(*nothing, 1.5, given).means, start_gaussians(*nothing, 1.5, without).means)


@pytest.mark.parametrize(
    ("points", "reason"),
    [(np.zeros((3, 3), np.float32), "found 3 point"), (np.ones((9, 3), np.float32), "at one place")],
)
def test_too_little_to_start_from_is_said(points, reason):
    with pytest.raises(DatasetError, match=reason):
        start_gaussians(points, np.zeros((len(points), 3), np.uint8), 1.0, chosen())
