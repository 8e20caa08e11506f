"""The loss: the same on the CPU's kernels and in torch's operations, and only over pixels that count."""

import math

import pytest
import torch

from tasks.splatting.loss.cpu_loss import ssim
from tasks.splatting.loss.photo_loss import photo_loss, psnr, tensor_loss, tensor_ssim


def pictures(height: int = 23, width: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    taken = torch.rand(height, width, 3, generator=g)
    return (taken + 0.2 * torch.randn(height, width, 3, generator=g)).clamp(0, 1), taken


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_kernels_and_operations_agree_in_value_and_gradient(weight, masked):
    drawn, taken = pictures()
    mask = None
    if masked:
        mask = torch.ones(drawn.shape[:2], dtype=torch.bool)
        mask[5:15, :12] = False
    losses, gradients = [], []
    n_counted = int(mask.sum()) if masked else drawn.shape[0] * drawn.shape[1]
    for function, more in ((photo_loss, {}), (tensor_loss, {"n_counted": n_counted})):
        leaf = drawn.clone().requires_grad_()
        losses.append(function(leaf, taken, mask, weight, **more))
        losses[-1].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-7)


def test_similarity_agrees_as_well():
    drawn, taken = pictures()
    assert float(tensor_ssim(drawn, taken)) == pytest.approx(ssim(drawn, taken), abs=1e-5)


def test_pixels_that_do_not_count_have_no_say():
    drawn, taken = pictures()
    mask = torch.ones(drawn.shape[:2], dtype=torch.bool)
    mask[:, 20:] = False
    other = drawn.clone()
    other[:, 20:] = 0.0
    leaf = other.clone().requires_grad_()
    loss = photo_loss(leaf, taken, mask, 0.2)
    assert float(loss) == float(photo_loss(drawn, taken, mask, 0.2))
    loss.backward()
    assert not leaf.grad[:, 20:].any()


def test_without_structure_the_loss_is_the_mean_distance_over_counted_pixels():
    taken = torch.zeros(12, 12, 3)
    drawn = torch.zeros(12, 12, 3)
    drawn[:6] = 0.5
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[3:9] = True
    assert float(photo_loss(drawn, taken, mask, 0.0)) == pytest.approx(0.25)


def test_a_picture_that_is_masked_whole_is_no_error():
    drawn, taken = pictures()
    leaf = drawn.clone().requires_grad_()
    loss = photo_loss(leaf, taken, torch.zeros(drawn.shape[:2], dtype=torch.bool), 0.2)
    loss.backward()
    assert float(loss) == 0
    assert not leaf.grad.any()


def test_decibels():
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(0.0) == 100.0
    assert math.isclose(psnr(1.0), 0.0)
