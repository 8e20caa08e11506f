"""The classic strategy: small ones that are pulled at are cloned, large ones split, transparent ones pruned."""

import math

import pytest
import torch

from tasks.splatting.fit.densify import Densify
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.presets import settings
from tasks.splatting.params import SplatParams
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rendered

LARGE, SMALL = 0.05, 0.001  # the limit is 0.01 of a scene of size 1


def optimizer(sizes: list[float], opacity: float = 0.5) -> SplatOptimizer:
    n, g = len(sizes), torch.Generator().manual_seed(0)
    return SplatOptimizer(
        Gaussians(
            means=torch.randn(n, 3, generator=g),
            scales=torch.tensor(sizes).log()[:, None].repeat(1, 3),
            quats=torch.randn(n, 4, generator=g),
            opacities=torch.logit(torch.full((n,), opacity)),
            sh0=torch.randn(n, 1, 3, generator=g),
            shN=torch.zeros(n, 0, 3),
        )
    )


def strategy(n: int, **values) -> Densify:
    given = {"strategy": "default", "refine_start": 0, "refine_stop": 1000, "refine_every": 10} | values
    chosen = settings(SplatParams(preset="quick", **given), "cpu")
    return Densify(chosen, torch.Generator().manual_seed(1), 1.0, n)


def seen(pulls: list[float], *, width: int = 200, height: int = 100) -> list[Rendered]:
    """Return one image, which pulls at each Gaussian by so much, in halves of its width."""
    means2d = torch.zeros(len(pulls), 2)
    means2d.grad = torch.tensor([[pull / (width / 2), 0.0] for pull in pulls])
    return [Rendered(torch.zeros(height, width, 3), torch.zeros(height, width), None, means2d, torch.ones(len(pulls)))]


def test_small_ones_are_cloned_and_large_ones_split():
    fitted = optimizer([SMALL, LARGE, SMALL, LARGE])
    before = {name: tensor.detach().clone() for name, tensor in fitted.gaussians.tensors().items()}
    strategy(4).after_step(fitted, seen([0.001, 0.001, 0.0001, 0.0001]), 10, 0.0)
    after = fitted.gaussians
    assert len(after) == 6
    assert torch.equal(after.means[4], before["means"][0])  # the clone
    assert torch.equal(after.scales[4], before["scales"][0])
    for row in (1, 5):  # both halves
        assert not torch.equal(after.means[row], before["means"][1])
        torch.testing.assert_close(after.scales[row], before["scales"][1] - math.log(1.6))
        assert torch.equal(after.sh0[row], before["sh0"][1])
    assert torch.equal(after.means[[0, 2, 3]], before["means"][[0, 2, 3]])


def test_the_pull_is_relative_to_the_size_of_the_picture():
    for width, expected in ((200, 1), (400, 2)):
        (picture,) = seen([0.00015])
        picture.means2d.grad[:] = torch.tensor([[0.00015 / 100, 0.0]])
        wide = Rendered(torch.zeros(100, width, 3), torch.zeros(100, width), None, picture.means2d, picture.radii)
        fitted = optimizer([SMALL])
        strategy(1).after_step(fitted, [wide], 10, 0.0)
        assert len(fitted.gaussians) == expected


def test_the_pull_is_the_mean_over_the_pictures_a_gaussian_was_in():
    fitted, mean = optimizer([SMALL, SMALL]), strategy(2)
    for step in (8, 9):
        (picture,) = seen([0.0003, 0.0003])
        if step == 9:
            picture.means2d.grad.zero_()
            picture.radii[1] = 0  # not in this one
        mean.after_step(fitted, [picture], step, 0.0)
    (picture,) = seen([0.0, 0.0])
    picture.radii[:] = 0
    mean.after_step(fitted, [picture], 10, 0.0)
    assert len(fitted.gaussians) == 3  # 0.00015 of the first is below the limit
    assert torch.equal(fitted.gaussians.means[2], fitted.gaussians.means[1])


def test_transparent_ones_are_pruned_and_their_state_with_them():
    fitted, pruned = optimizer([SMALL] * 3), strategy(3)
    fitted.overwrite(torch.tensor([1]), {"opacities": torch.logit(torch.tensor([0.004]))})
    means = fitted.gaussians.means.detach().clone()
    pruned.after_step(fitted, seen([0.0] * 3), 10, 0.0)
    assert torch.equal(fitted.gaussians.means, means[[0, 2]])
    assert len(pruned.pull) == len(pruned.seen) == 2


def test_large_ones_are_pruned_after_the_first_reset():
    for step, left in ((100, 2), (110, 1)):
        fitted = optimizer([0.2, SMALL])
        strategy(2, reset_every=100, prune_opa=0.001).after_step(fitted, seen([0.0, 0.0]), step, 0.0)
        assert len(fitted.gaussians) == left


def test_opacities_are_reset_and_lose_their_momentum():
    fitted = optimizer([SMALL] * 2, opacity=0.9)
    fitted.first["opacities"] += 1.0
    strategy(2, reset_every=7).after_step(fitted, seen([0.0, 0.0]), 7, 0.0)
    torch.testing.assert_close(torch.sigmoid(fitted.gaussians.opacities), torch.full((2,), 0.01))
    assert not fitted.first["opacities"].any()


def test_at_the_cap_the_ones_pulled_at_most_come_first():
    fitted = optimizer([SMALL] * 100)
    strategy(100, cap_max=101).after_step(fitted, seen([0.001 + 0.0001 * i for i in range(100)]), 10, 0.0)
    assert len(fitted.gaussians) == 101
    assert torch.equal(fitted.gaussians.means[100], fitted.gaussians.means[99])


@pytest.mark.parametrize("step", [0, 5, 1000, 1010])
def test_nothing_comes_outside_the_window(step):
    fitted = optimizer([SMALL])
    strategy(1, refine_start=10).after_step(fitted, seen([1.0]), step, 0.0)
    assert len(fitted.gaussians) == 1
