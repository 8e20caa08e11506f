"""Exposure per image: nothing at the start, pulled to nothing, and solved for where an image was not fitted to."""

import copy

import pytest
import torch

from tasks.splatting.fit.exposure import REGULARISATION, Exposures, exposed, solved

AFFINE = torch.tensor([[1.2, 0.1, 0.0, 0.05], [0.0, 0.8, 0.0, -0.02], [0.05, 0.0, 1.0, 0.1]])


def colors(height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))


def test_nothing_is_changed_at_the_start():
    exposures = Exposures(3, 1e-3, torch.device("cpu"))
    assert torch.equal(exposures.apply(colors(), 2), colors())
    assert float(exposures.penalty(2).detach()) == 0


def test_each_channel_is_a_mix_and_an_offset():
    found = exposed(torch.tensor([[[1.0, 2.0, 3.0]]]), AFFINE)[0, 0]
    torch.testing.assert_close(found, torch.tensor([1.2 + 0.2 + 0.05, 1.6 - 0.02, 0.05 + 3.0 + 0.1]))


def test_the_penalty_is_the_mean_square_from_no_change():
    exposures = Exposures(1, 1e-3, torch.device("cpu"))
    with torch.no_grad():
        exposures.affine[0, 0, 3] = 0.6
    assert float(exposures.penalty(0).detach()) == pytest.approx(REGULARISATION * 0.36 / 12)


def test_fitting_finds_the_gain_of_one_picture_and_leaves_the_others():
    exposures = Exposures(2, 1e-2, torch.device("cpu"))
    for _ in range(300):
        loss = (exposures.apply(colors(), 1) - 0.7 * colors()).abs().mean()
        loss.backward()
        exposures.step()
    assert float((exposures.apply(colors(), 1) - 0.7 * colors()).abs().max().detach()) < 0.02
    assert torch.equal(exposures.affine[0].detach(), torch.eye(3, 4))


def test_the_map_that_was_applied_is_solved_for():
    torch.testing.assert_close(solved(colors(), exposed(colors(), AFFINE), None), AFFINE, rtol=0, atol=1e-3)


def test_masked_pixels_do_not_enter_the_solution():
    taken = exposed(colors(), AFFINE)
    taken[:3] = 1.0
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[3:] = True
    torch.testing.assert_close(solved(colors(), taken, mask), AFFINE, rtol=0, atol=1e-3)


def test_without_any_counted_pixel_nothing_is_changed():
    found = solved(colors(), colors(), torch.zeros(6, 8, dtype=torch.bool))
    torch.testing.assert_close(found, torch.eye(3, 4))


def test_a_state_goes_on_with_the_same_bits():
    first, second = (Exposures(2, 1e-2, torch.device("cpu")) for _ in range(2))

    def step(exposures: Exposures) -> None:
        exposures.apply(colors(), 0).square().mean().backward()
        exposures.step()

    step(first)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(first)
    step(second)
    assert torch.equal(first.affine, second.affine)
    assert not torch.equal(first.affine[0].detach(), torch.eye(3, 4))
