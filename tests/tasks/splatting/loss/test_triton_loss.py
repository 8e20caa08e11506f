"""Every way to the loss between images, held to the formula in float64: numba, torch's operations, Triton.

Without a GPU Triton interprets its kernels, lane by lane the same operations.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from tasks.splatting.loss.cpu_loss import cpu_photometric_loss
from tasks.splatting.loss.photo_loss import photo_loss, tensor_loss
from tasks.splatting.loss.triton_loss import triton_photometric_loss
from tests.tasks.splatting.fit_scene import arc, true_gaussians

DEVICE = "cpu" if "TRITON_INTERPRET" in os.environ else "cuda"


def exact_loss(x, y, mask, share):
    """Return the loss in float64 by windows of 11x11 written out."""
    x, y = x.double(), y.double()
    x = x if mask is None else torch.where(mask[..., None], x, y)
    n = x.shape[0] * x.shape[1] if mask is None else int(mask.sum())
    bell = torch.exp(-((torch.arange(11, dtype=torch.float64, device=x.device) - 5) ** 2) / (2 * 1.5**2))
    window = (bell[:, None] * bell / bell.sum() ** 2).expand(3, 1, 11, 11)
    planes = [part.permute(2, 0, 1)[None] for part in (x, y, x * x, y * y, x * y)]
    mx, my, xx, yy, xy = (F.conv2d(plane, window, groups=3) for plane in planes)
    top = (2 * mx * my + 0.01**2) * (2 * (xy - mx * my) + 0.03**2)
    likeness = (top / ((mx**2 + my**2 + 0.01**2) * (xx - mx**2 + yy - my**2 + 0.03**2))).mean()
    return (1 - share) * (x - y).abs().sum() / (3 * n) + share * (1 - likeness)


def by_numba(x, y, mask, share):
    return cpu_photometric_loss(x, y, share, mask=mask)


def by_torch(x, y, mask, share):
    return tensor_loss(x, y, mask, share, x.shape[0] * x.shape[1] if mask is None else int(mask.sum()))


def by_triton(x, y, mask, share):
    x, y = x.to(DEVICE), y.to(DEVICE)
    mask = None if mask is None else mask.to(DEVICE)
    return triton_photometric_loss(
        x, y, mask, share, n_counted=x.shape[0] * x.shape[1] if mask is None else int(mask.sum())
    ).cpu()


def drawn_scene():
    """Return an image of a scene and one of it that is a little off."""
    from tasks.splatting.render.cpu_rasterizer import CpuRasterizer

    camera = arc(3)[1].resized(26, 20)
    with torch.no_grad():
        picture = CpuRasterizer()(true_gaussians(), camera, sh_degree=0).colors.clamp(0, 1)
    return (picture + 0.03 * random(0, *picture.shape)).clamp(0, 1), picture


def random(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


PICTURES = {
    "random": (random(0, 13, 16, 3), random(1, 13, 16, 3)),
    "tiny": (random(2, 11, 11, 3), random(3, 11, 11, 3)),
    "black": (torch.zeros(12, 13, 3), torch.zeros(12, 13, 3)),
    "black and white": (torch.zeros(12, 13, 3), torch.ones(12, 13, 3)),
    "flat and bright": (torch.full((12, 13, 3), 1.0), torch.full((12, 13, 3), 0.9)),
    "flat": (torch.full((12, 13, 3), 0.7), torch.full((12, 13, 3), 0.3)),
    "scene": drawn_scene(),
}


@pytest.mark.parametrize("way", [by_numba, by_torch, by_triton])
@pytest.mark.parametrize("name", PICTURES)
def test_value_and_gradient_are_those_of_float64(name, way):
    drawn, taken = PICTURES[name]
    right = drawn.double().requires_grad_()
    expected = exact_loss(right, taken, None, 0.2)
    expected.backward()
    leaf = drawn.clone().requires_grad_()
    found = way(leaf, taken, None, 0.2)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    assert float((leaf.grad - right.grad).abs().max()) <= 1e-5 * float(right.grad.abs().max())


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("way", [by_numba, by_torch, by_triton])
def test_pixels_that_do_not_count_have_no_part(way, share):
    (drawn, taken), mask = PICTURES["random"], torch.zeros(13, 16, dtype=torch.bool)
    mask[2:11, 3:12] = True
    right = drawn.double().requires_grad_()
    expected = exact_loss(right, taken, mask, share)
    expected.backward()
    leaf = drawn.clone().requires_grad_()
    found = way(leaf, taken, mask, share)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    assert float((leaf.grad - right.grad).abs().max()) <= 1e-5 * float(right.grad.abs().max())
    assert not leaf.grad[~mask].any()


def test_bytes_mean_what_a_file_means_by_them():
    drawn, _ = PICTURES["random"]
    stored = (255 * random(5, *drawn.shape)).to(torch.uint8)
    as_bytes, as_floats = (by_triton(drawn, taken, None, 0.2) for taken in (stored, stored.float() / 255))
    assert float(as_bytes) == pytest.approx(float(as_floats), abs=1e-7)
    assert float(photo_loss(drawn, stored, None, 0.2)) == float(photo_loss(drawn, stored.float() / 255, None, 0.2))


@pytest.mark.parametrize(
    ("drawn", "taken", "words"),
    [
        (torch.zeros(10, 20, 3), torch.zeros(10, 20, 3), "H and W of at least 11"),
        (torch.zeros(20, 20, 3), torch.zeros(20, 21, 3), r"\(20, 20, 3\) and \(20, 21, 3\)"),
        (torch.zeros(20, 20, 3).double(), torch.zeros(20, 20, 3), "float64 and torch.float32; need float32"),
    ],
)
def test_pictures_that_cannot_be_compared_are_named(drawn, taken, words):
    with pytest.raises(ValueError, match=words):
        triton_photometric_loss(drawn, taken, None, 0.2, n_counted=400)


@pytest.mark.gpu
def test_a_gpu_takes_the_kernel_and_agrees_with_the_cpu():
    drawn, taken = PICTURES["scene"]
    on_gpu = photo_loss(drawn.cuda().requires_grad_(), taken.cuda(), None, 0.2)
    assert "Photometric" in type(on_gpu.grad_fn).__name__
    assert float(on_gpu.detach()) == pytest.approx(float(photo_loss(drawn, taken, None, 0.2)), abs=1e-6)
