"""Kernels that change fitted values, and those around gsplat's, against torch's own operations and its autograd."""

import os

import pytest
import torch
from torch.optim.adam import adam

from tasks.splatting.fit import triton_steps
from tasks.splatting.render import fused_draw, triton_colors
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.gaussians import Gaussians
from tests.tasks.splatting.fit_scene import arc
from tests.tasks.splatting.gsplat_reference import Kernels
from tests.tasks.splatting.render.test_cuda_rasterizer import random_gaussians, turned

DEVICE = "cpu" if "TRITON_INTERPRET" in os.environ else "cuda"
RATES = {"means": 1e-3, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2e-3, "shN": 1e-4}


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def test_adam_is_that_of_torch_over_all_tensors_at_once():
    gaussians = random_gaussians(37)
    values = [tensor.to(DEVICE) for tensor in gaussians.tensors().values()]
    ours = [[v.clone(), torch.zeros_like(v), torch.zeros_like(v)] for v in values]
    theirs = [[v.clone(), torch.zeros_like(v), torch.zeros_like(v)] for v in values]
    for step in range(3):
        grads = [1e-3 * normal(step, *v.shape) for v in values]
        rows = [
            triton_steps.Moved(v, g, m, s, rate) for (v, m, s), g, rate in zip(ours, grads, RATES.values(), strict=True)
        ]
        triton_steps.adam(rows, step + 1, beta1=0.9, beta2=0.999, epsilon=1e-15)
        for (v, m, s), g, rate in zip(theirs, grads, RATES.values(), strict=True):
            count = torch.tensor(float(step), device=DEVICE)
            options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "maximize": False}
            adam([v], [g], [m], [s], [], [count], fused=True, lr=rate, eps=1e-15, **options)
    for one, other in zip(ours, theirs, strict=True):
        for mine, its in zip(one, other, strict=True):
            torch.testing.assert_close(mine, its, rtol=2e-6, atol=5e-7)


def test_fewer_tensors_than_six_are_moved_as_well():
    value, other = normal(0, 5, 3), normal(1, 7)
    rows = [
        triton_steps.Moved(v, torch.ones_like(v), torch.zeros_like(v), torch.zeros_like(v), 0.1) for v in (value, other)
    ]
    before = value.clone(), other.clone()
    triton_steps.adam(rows, 1, beta1=0.9, beta2=0.999, epsilon=1e-15)
    torch.testing.assert_close(before[0] - value, torch.full_like(value, 0.1))
    torch.testing.assert_close(before[1] - other, torch.full_like(other, 0.1))


def shaken(seed, opacity=-6.0, n=600):
    """Return the noise of n unturned Gaussians, in units of what it should be scaled by."""
    means, scales = torch.zeros(n, 3, device=DEVICE), normal(0, n, 3)
    quats = torch.tensor([2.0, 0.0, 0.0, 0.0], device=DEVICE).repeat(n, 1)
    logits = torch.full((n,), opacity, device=DEVICE)
    curve = {"steepness": 100.0, "centre": 0.995, "still": 0.15}
    triton_steps.shake(means, scales, quats, logits, seed=seed, strength=0.5, **curve)
    fade = torch.sigmoid(100 * (1 - torch.sigmoid(logits[0]) - 0.995))
    return means / (0.5 * fade * torch.exp(2 * scales))


def test_noise_is_normal_by_the_covariance_and_the_same_for_the_same_seed():
    noise = shaken(7)
    assert noise.mean(0).abs().max() < 0.15
    assert (noise.std(0) - 1).abs().max() < 0.1
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.15
    assert torch.equal(noise, shaken(7))
    assert not torch.equal(noise, shaken(8))
    assert not torch.equal(noise, shaken((1 << 32) + 7))


def test_noise_turns_with_the_gaussian_and_leaves_opaque_ones_alone():
    assert not shaken(7, opacity=2.0).any()
    turn = torch.tensor([[0.5**0.5, 0.0, 0.0, 0.5**0.5]], device=DEVICE)  # a quarter about z: x becomes y
    scales, logits = torch.tensor([[0.0, -9.0, -9.0]], device=DEVICE), torch.full((1,), -8.0, device=DEVICE)
    means = torch.zeros(1, 3, device=DEVICE)
    curve = {"steepness": 100.0, "centre": 0.995, "still": 0.15}
    triton_steps.shake(means, scales, turn, logits, seed=3, strength=1.0, **curve)
    assert abs(means[0, 1]) > 1e-3
    assert means[0, [0, 2]].abs().max() < 1e-6


def test_penalty_is_the_mean_of_opacities_and_extents():
    scales, logits = normal(0, 50, 3).requires_grad_(), normal(1, 50).requires_grad_()
    found = triton_steps.Penalty.apply(scales, logits, 0.01, 0.02)
    (3 * found).backward()
    right = scales.detach().double().requires_grad_(), logits.detach().double().requires_grad_()
    expected = 0.01 * torch.sigmoid(right[1]).mean() + 0.02 * torch.exp(right[0]).mean()
    (3 * expected).backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for leaf, exact in zip((scales, logits), right, strict=True):
        torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("sh_degree", range(4))
def test_one_node_of_autograd_draws_as_the_cpu_does(sh_degree, antialiased):
    if DEVICE != "cpu":
        pytest.skip("gsplat's PyTorch versions stand in for its kernels; test_cuda_rasterizer has them on a GPU")
    camera, drawn, grads = arc(3)[1], [], []
    for fused in (False, True):
        leaves = {name: t.clone().requires_grad_() for name, t in random_gaussians(100).tensors().items()}
        pose = torch.as_tensor(camera.world_to_camera, dtype=torch.float32).clone().requires_grad_()
        background = torch.tensor([0.1, 0.5, 0.9], requires_grad=True)
        if fused:
            lens = torch.tensor([[[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]])
            view = fused_draw.DrawCall(lens, camera.width, camera.height, 0.01, sh_degree, antialiased)
            given = [leaves[name] for name in ("means", "scales", "quats", "opacities", "sh0", "shN")]
            picture, alphas = fused_draw.Draw.apply(*given, pose, background, view, Kernels)
        else:
            options = {"sh_degree": sh_degree, "background": background, "antialiased": antialiased, "pose": pose}
            found = CpuRasterizer()(Gaussians(**leaves), camera, **options)
            picture, alphas = found.colors, found.alphas
        weights = torch.linspace(0, 1, picture.numel()).view_as(picture)
        ((picture * weights).sum() + 0.1 * alphas.square().sum()).backward()
        drawn.append([picture.detach(), alphas.detach()])
        centers = view.centers if fused else found.means2d
        grads.append([centers.grad, turned(pose), background.grad, *(leaf.grad for leaf in leaves.values())])
    for ours, theirs in zip(*drawn, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*grads, strict=True):
        assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm())


def test_gaussians_outside_the_picture_are_grey_and_get_no_gradient():
    means, sh0, shN = normal(0, 5, 3), normal(1, 5, 1, 3), normal(2, 5, 15, 3)
    radii = torch.tensor([[3, 3], [0, 3], [3, 0], [0, 0], [1, 1]], dtype=torch.int32, device=DEVICE)
    colors = triton_colors.colors_of(means, sh0, shN, radii, torch.eye(4, device=DEVICE), 3)
    assert torch.equal(colors[1:4], torch.full((3, 3), 0.5, device=DEVICE))
    gradients = [torch.ones(5, 3, device=DEVICE), torch.ones(5, 3, device=DEVICE), torch.ones(5, device=DEVICE)]
    by_colors = torch.ones(5, 3, device=DEVICE)
    drawn = (radii, torch.ones(5, 3, device=DEVICE), torch.full((5,), 0.5, device=DEVICE), colors)
    by_sh0, by_shN = triton_colors.by_fitted(
        (means, shN), drawn, (*gradients, by_colors), torch.eye(4, device=DEVICE), 3
    )
    assert not by_sh0[1:4].any()
    assert not by_shN[1:4].any()
    assert torch.equal(gradients[0][1:4], torch.ones(3, 3, device=DEVICE))
