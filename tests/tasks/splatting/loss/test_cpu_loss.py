"""Tests of the loss between images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.splatting.loss.cpu_loss import cpu_photometric_loss, ssim


def pictures(seed, height, width):
    """Two alike images in [0, 1], with a flat corner where variances vanish."""
    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3))
    target = (image + rng.normal(0, 0.2, image.shape)).clip(0, 1)
    image[:6, :6] = target[:6, :6] = 0.5
    return torch.tensor(image, dtype=torch.float32), torch.tensor(target, dtype=torch.float32)


def plain_ssim(x, y):
    """Return the mean of SSIM by five convolutions of (H, W, 3)."""
    bell = torch.exp(-((torch.arange(11, dtype=x.dtype) - 5) ** 2) / (2 * 1.5**2))
    window = (bell[:, None] * bell / bell.sum() ** 2).expand(3, 1, 11, 11)
    x, y = x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None]
    mx, my, xx, yy, xy = (F.conv2d(part, window, groups=3) for part in (x, y, x * x, y * y, x * y))
    top = (2 * mx * my + 0.01**2) * (2 * (xy - mx * my) + 0.03**2)
    return (top / ((mx**2 + my**2 + 0.01**2) * (xx - mx**2 + yy - my**2 + 0.03**2))).mean()


def plain_loss(x, y, ssim_lambda):
    return (1 - ssim_lambda) * (x - y).abs().mean() + ssim_lambda * (1 - plain_ssim(x, y))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(11, 40), st.integers(11, 40), st.sampled_from([0.0, 0.2, 1.0]))
def test_loss_and_gradient_are_those_of_plain_torch(seed, height, width, ssim_lambda):
    image, target = pictures(seed, height, width)
    exact = image.double().requires_grad_()
    expected = plain_loss(exact, target.double(), ssim_lambda)
    expected.backward()
    image.requires_grad_()
    found = cpu_photometric_loss(image, target, ssim_lambda)
    (3 * found).backward()
    assert found.item() == pytest.approx(expected.item(), abs=2e-6)
    scale = exact.grad.abs().max()
    torch.testing.assert_close(image.grad.double() / scale / 3, exact.grad / scale, rtol=0, atol=1e-4)


def test_ssim_is_that_of_plain_torch():
    image, target = pictures(0, 45, 33)
    assert ssim(image, target) == pytest.approx(plain_ssim(image.double(), target.double()).item(), abs=2e-6)


def test_ssim_of_equal_pictures_is_one():
    image, _ = pictures(0, 20, 20)
    assert ssim(image, image) == pytest.approx(1, abs=1e-6)


def test_threads_change_no_bit():
    image, target = pictures(3, 50, 41)
    results = []
    for num_threads in (1, 2, 3):
        copy = image.clone().requires_grad_()
        loss = cpu_photometric_loss(copy, target, 0.2, num_threads=num_threads)
        loss.backward()
        results.append((loss.item(), copy.grad))
    assert all(loss == results[0][0] and torch.equal(grad, results[0][1]) for loss, grad in results)


def test_pixels_outside_the_mask_have_no_part():
    image, target = pictures(1, 24, 30)
    mask = torch.zeros(24, 30, dtype=torch.bool)
    mask[3:20, 4:25] = True
    image.requires_grad_()
    loss = cpu_photometric_loss(image, target, 0.2, mask=mask)
    loss.backward()
    assert image.grad[~mask].abs().max() == 0
    assert image.grad[mask].abs().min() > 0
    right = torch.where(mask[..., None], image, target).double()
    l1 = (right - target).abs().sum() / (3 * mask.sum())
    expected = 0.8 * l1 + 0.2 * (1 - plain_ssim(right, target.double()))
    assert loss.item() == pytest.approx(expected.item(), abs=2e-6)


@pytest.mark.parametrize(
    ("image", "target", "words"),
    [
        (torch.zeros(10, 20, 3), torch.zeros(10, 20, 3), r"\(10, 20, 3\); need .* at least 11"),
        (torch.zeros(20, 20, 3), torch.zeros(20, 21, 3), r"target is \(20, 21, 3\); need the same shape"),
        (torch.zeros(20, 20, 3).double(), torch.zeros(20, 20, 3), "float64 on cpu; need torch.float32"),
    ],
)
def test_pictures_that_cannot_be_compared_are_named(image, target, words):
    with pytest.raises(ValueError, match=words):
        cpu_photometric_loss(image, target, 0.2)


def test_a_mask_that_counts_nothing_is_an_error():
    image, target = pictures(1, 24, 30)
    with pytest.raises(ValueError, match=r"mask \(24, 30\) counts no pixel"):
        cpu_photometric_loss(image, target, 0.2, mask=torch.zeros(24, 30, dtype=torch.bool))
