"""Tests of the CPU rasteriser against autograd of the same formula in float64."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tasks.base.errors import TrainingError
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.gaussians import Gaussians
from tests.tasks.splatting.reference import render

ROOT = Path(__file__).parents[4]
FLOAT32 = 2e-5  # a choice nearer to its limit than this may fall either way in float32
# Just before the camera a Gaussian is so large that float32 sums hold three digits of its gradient, autograd's fewer.
NEAR = 0.2


def gaussians_of(seed, n, degree=3):
    """Random Gaussians before, beside and behind a camera at (0, 0, -2): huge and tiny, clear and solid."""
    rng = np.random.default_rng(seed)
    values = {
        "means": rng.uniform([-3, -3, -3], [3, 3, 3], (n, 3)),
        "scales": rng.uniform(-6, 0.7, (n, 3)),
        "quats": rng.normal(size=(n, 4)) * 3,
        "opacities": rng.uniform(-8, 9, n),
        "sh0": rng.normal(size=(n, 1, 3)),
        "shN": rng.normal(0, 0.3, (n, (degree + 1) ** 2 - 1, 3)),
    }
    return Gaussians(**{name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()})


def camera_of(seed, width=37, height=29):
    """A camera near (0, 0, -2), a little turned, its axis off the image's centre."""
    rng = np.random.default_rng(seed)
    turn, pose = np.linalg.qr(np.eye(3) + rng.normal(0, 0.1, (3, 3)))[0], np.eye(4)
    turn *= np.sign(np.diag(turn))
    pose[:3, :3] = turn * np.linalg.det(turn)
    pose[:3, 3] = rng.normal(0, 0.1, 3) + [0, 0, 2]
    focal = rng.uniform(0.5, 1.5) * width
    return Camera("a.png", width, height, focal, 1.1 * focal, 0.45 * width, 0.55 * height, pose)


def drawn(gaussians, camera, dtype, weights, num_threads=1, **options):
    """Return the image's parts and all gradients of a weighted sum, float64, by name; then the reference's margin."""
    copy = Gaussians(**{k: v.to(dtype, copy=True).requires_grad_() for k, v in gaussians.tensors().items()})
    pose = torch.tensor(camera.world_to_camera, dtype=torch.float64).requires_grad_()
    background = torch.tensor([0.3, 0.6, 0.1], dtype=dtype).requires_grad_()
    options |= {"pose": pose, "background": background, "with_depth": True}
    if dtype == torch.float64:
        shown, margin = render(copy, camera, near_plane=NEAR, **options)
    else:
        shown, margin = CpuRasterizer(num_threads=num_threads, near_plane=NEAR)(copy, camera, **options), 1.0
    weights = weights.to(dtype)
    ((shown.colors * weights[..., :3]).sum() + (shown.alphas * weights[..., 3]).sum()).backward()
    found = {name: getattr(shown, name) for name in ("colors", "alphas", "depths", "means2d", "radii")}
    found |= {f"by {name}": tensor.grad for name, tensor in copy.tensors().items()}
    found |= {"by pose": pose.grad, "by background": background.grad, "by means2d": shown.means2d.grad}
    return {name: tensor.detach().double() for name, tensor in found.items()}, margin


def weights_of(seed, camera):
    return torch.randn(camera.height, camera.width, 4, generator=torch.Generator().manual_seed(seed % 2**32))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**40),
    n=st.integers(1, 60),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    degrees=st.integers(0, 3).flatmap(lambda own: st.tuples(st.just(own), st.integers(0, own))),
    antialiased=st.booleans(),
)
def test_picture_and_gradients_are_those_of_autograd(seed, n, size, degrees, antialiased):
    gaussians, camera = gaussians_of(seed, n, degrees[0]), camera_of(seed, *size)
    options = {"weights": weights_of(seed, camera), "sh_degree": degrees[1], "antialiased": antialiased}
    expected, margin = drawn(gaussians, camera, torch.float64, **options)
    assume(margin > FLOAT32)
    found, _ = drawn(gaussians, camera, torch.float32, **options)
    seen = expected["radii"] > 0
    for name in ("radii", "colors", "alphas"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(found["depths"], expected["depths"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["means2d"][seen], expected["means2d"][seen], rtol=1e-6, atol=1e-5)
    for name in [name for name in found if name.startswith("by ")]:
        atol = 1e-4 * max([1e-2, *expected[name].abs().flatten().tolist()])
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("size", [(64, 48), (50, 33)])
def test_threads_change_no_bit(size):
    gaussians, camera = gaussians_of(5, 700), camera_of(5, *size)
    results = [
        drawn(gaussians, camera, torch.float32, weights_of(0, camera), num_threads, sh_degree=3)[0]
        for num_threads in (1, 2, 3, 1)
    ]
    for result in results[1:]:
        assert [name for name in result if not torch.equal(result[name], results[0][name])] == []


def test_no_gaussian_shows_the_background():
    gaussians, camera = gaussians_of(0, 0), camera_of(0)
    found, _ = drawn(gaussians, camera, torch.float32, weights_of(0, camera), sh_degree=3)
    assert torch.equal(found["colors"], torch.tensor([0.3, 0.6, 0.1]).double().expand(29, 37, 3).float().double())
    assert found["alphas"].abs().max() == found["depths"].abs().max() == 0
    assert found["by means"].shape == (0, 3)


def test_gaussians_behind_the_camera_are_not_seen():
    gaussians, camera = gaussians_of(0, 20), camera_of(0)
    gaussians.means[:, 2] = -9
    found, _ = drawn(gaussians, camera, torch.float32, weights_of(0, camera), sh_degree=3)
    assert found["alphas"].max() == 0
    assert found["radii"].max() == 0
    assert max(found[name].abs().max() for name in found if name.startswith("by ") and name != "by background") == 0


def test_near_plane_is_the_one_given():
    gaussians, camera = gaussians_of(0, 40), camera_of(0)
    depths = gaussians.means.double() @ torch.tensor(camera.world_to_camera[2, :3]) + camera.world_to_camera[2, 3]
    near = CpuRasterizer(near_plane=2.0)(gaussians, camera, sh_degree=0)
    assert near.radii[depths < 2].max() == 0
    assert torch.equal(near.radii[depths > 2], CpuRasterizer()(gaussians, camera, sh_degree=0).radii[depths > 2])


def test_without_background_pose_or_gradient_nothing_else_changes():
    gaussians, camera = gaussians_of(2, 30), camera_of(2)
    plain = CpuRasterizer()(gaussians, camera, sh_degree=2)
    pose = torch.tensor(camera.world_to_camera, dtype=torch.float32)
    named = CpuRasterizer()(gaussians, camera, sh_degree=2, pose=pose, background=torch.zeros(3), with_depth=True)
    assert plain.depths is None
    assert not plain.colors.requires_grad
    torch.testing.assert_close(plain.colors, named.colors, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("means", float("nan"), "number 3 has means not finite"),
        ("means", float("inf"), "number 3 has means not finite"),
        ("opacities", float("nan"), "number 3 has opacities not finite"),
        ("sh0", float("nan"), "number 3 has sh0 not finite"),
        ("scales", 400.0, "number 3 has too large"),
        ("quats", 0.0, "or a quaternion of length 0"),
    ],
)
def test_values_that_cannot_be_drawn_are_named(name, value, words):
    gaussians, camera = gaussians_of(0, 5), camera_of(0)
    gaussians.means[:] = 0
    gaussians.opacities[:] = 3
    gaussians.tensors()[name][3] = value
    with pytest.raises(TrainingError, match=f"1 of 5 Gaussians cannot be drawn for a.png; .*{words}"):
        CpuRasterizer()(gaussians, camera, sh_degree=3)


def test_wrong_use_is_named():
    gaussians, camera = gaussians_of(0, 5, degree=1), camera_of(0)
    with pytest.raises(ValueError, match="sh_degree is 2; need 0 to 1"):
        CpuRasterizer()(gaussians, camera, sh_degree=2)
    gaussians.means = gaussians.means.double()
    with pytest.raises(ValueError, match=r"means is torch.float64 on cpu; need torch.float32"):
        CpuRasterizer()(gaussians, camera, sh_degree=1)
    with pytest.raises(ValueError, match="near_plane is 0, num_threads is 1"):
        CpuRasterizer(num_threads=1, near_plane=0)


def test_a_child_process_draws_with_threads_of_its_own():
    gaussians, camera = gaussians_of(0, 50), camera_of(0)
    before = CpuRasterizer(num_threads=2)(gaussians, camera, sh_degree=3).colors
    child = os.fork()
    if child == 0:
        after = CpuRasterizer(num_threads=2)(gaussians, camera, sh_degree=3).colors
        os._exit(0 if torch.equal(before, after) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("writable", ["nothing", "home"])
def test_kernels_work_where_the_package_cannot_be_written(tmp_path, writable):
    package, home = tmp_path / "tasks" / "geometry", tmp_path / "home"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "tasks" / "geometry" / "jit.py", package)
    code = "from tasks.geometry.jit import kernel\ndef double(x): return 2 * x\nprint(kernel(double)(21))\n"
    (tmp_path / "main.py").write_text(code)
    # Files in the place of folders cannot be written into, not even by root.
    for folder in (package, tmp_path):
        (folder / "__pycache__").touch()
    home.mkdir() if writable == "home" else home.touch()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "42\n", done.stderr
    assert len(list(home.rglob("*.nbc"))) == (writable == "home")
