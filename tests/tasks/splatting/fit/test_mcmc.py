"""The Markov chain: copies look like the one before, the dead move, the number grows to the cap, noise fades."""

import math

import pytest
import torch

from tasks.splatting.fit.mcmc import MAX_COPIES, Mcmc, draw, shared
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.presets import settings
from tasks.splatting.params import SplatParams
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rendered

EMPTY = [Rendered(torch.zeros(1, 1, 3), torch.zeros(1, 1), None, torch.zeros(0, 2), torch.zeros(0))]


def gaussians(opacities: list[float]) -> Gaussians:
    n, g = len(opacities), torch.Generator().manual_seed(0)
    values = torch.tensor(opacities)
    return Gaussians(
        means=torch.randn(n, 3, generator=g),
        scales=torch.full((n, 3), -2.0) + 0.1 * torch.randn(n, 3, generator=g),
        quats=torch.randn(n, 4, generator=g),
        opacities=torch.logit(values),
        sh0=torch.randn(n, 1, 3, generator=g),
        shN=torch.zeros(n, 0, 3),
    )


def strategy(**values) -> Mcmc:
    given = {"preset": "quick", "refine_start": 0, "refine_stop": 1000, "refine_every": 10, "noise_lr": 0.0} | values
    return Mcmc(settings(SplatParams(**given), "cpu"), torch.Generator().manual_seed(1))


def by_definition(opacity: float, n: int) -> tuple[float, float]:
    """Return the opacity and the factor on the scale by the sums as the paper prints them (its eq. 9)."""
    new = 1 - (1 - opacity) ** (1 / n)
    total = 0.0
    for i in range(1, n + 1):
        for k in range(i):
            total += math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
    return new, opacity / total


@pytest.mark.parametrize("opacity", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_shared_opacities_and_scales_are_those_of_the_formula(opacity, n):
    new, scales = shared(torch.tensor([opacity]), torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([n]))
    expected, factor = by_definition(opacity, n)
    assert float(new) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(scales, factor * torch.tensor([[0.1, 0.2, 0.3]]), rtol=1e-5, atol=0)


def test_copies_together_let_as_much_light_through_as_the_one_before():
    new, _ = shared(torch.full((3,), 0.8), torch.ones(3, 3), torch.tensor([2, 7, MAX_COPIES]))
    through = (1 - new.double()) ** torch.tensor([2, 7, MAX_COPIES])
    torch.testing.assert_close(through, torch.full((3,), 0.2, dtype=torch.float64), rtol=1e-5, atol=0)


def test_dead_gaussians_move_to_living_ones_and_none_is_lost():
    optimizer = SplatOptimizer(gaussians([0.5, 0.001, 0.9, 0.004, 0.7]))
    before = optimizer.gaussians.means.detach().clone()
    strategy(cap_max=100, preset="full")._relocate(optimizer)
    after = optimizer.gaussians
    assert len(after) == 5
    alive = before[[0, 2, 4]]
    for row in (1, 3):
        assert (after.means[row] == alive).all(1).any()
    assert torch.equal(after.means[[0, 2, 4]], alive)
    assert float(torch.sigmoid(after.opacities.detach()).min()) > 0.005


def test_nothing_moves_where_all_are_dead():
    optimizer = SplatOptimizer(gaussians([0.001, 0.002]))
    before = optimizer.gaussians.means.detach().clone()
    strategy()._relocate(optimizer)
    assert torch.equal(optimizer.gaussians.means, before)


def test_the_number_grows_by_the_factor_up_to_the_cap():
    optimizer = SplatOptimizer(gaussians([0.5] * 100))
    grown = strategy(cap_max=150)
    factor = grown._settings.growth
    numbers = []
    for step in range(1, 61):
        grown.after_step(optimizer, EMPTY, step, 1.0)
        numbers.append(len(optimizer.gaussians))
    assert numbers[8] == 100
    assert numbers[9] == math.ceil(factor * 100)
    assert numbers[-1] == 150


def test_nothing_comes_outside_the_window():
    optimizer = SplatOptimizer(gaussians([0.5] * 10))
    held = strategy(refine_start=10, refine_stop=20)
    for step in (0, 10, 20, 30):
        held.after_step(optimizer, EMPTY, step, 1.0)
    assert len(optimizer.gaussians) == 10


def test_noise_moves_transparent_gaussians_along_their_own_extent_and_leaves_opaque_ones():
    n = 4000
    start = gaussians([0.002] * n + [0.9] * n)
    start.means = torch.zeros(2 * n, 3)
    start.quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(2 * n, 1)
    start.scales = torch.tensor([0.1, 0.2, 0.4]).log().repeat(2 * n, 1)
    optimizer = SplatOptimizer(start)
    strategy(noise_lr=10.0).after_step(optimizer, EMPTY, 1, 0.5)
    fade = 1 / (1 + math.exp(-100 * (0.998 - 0.995)))
    expected = 5.0 * fade * torch.tensor([0.01, 0.04, 0.16])  # learning rate, noise, variances
    torch.testing.assert_close(optimizer.gaussians.means[:n].std(0), expected, rtol=0.05, atol=0)
    assert not optimizer.gaussians.means[n:].any()


def test_draws_follow_the_weights():
    drawn = draw(torch.tensor([1.0, 0.0, 3.0]), 40_000, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=3) / 40_000
    torch.testing.assert_close(share, torch.tensor([0.25, 0.0, 0.75]), rtol=0, atol=0.01)
