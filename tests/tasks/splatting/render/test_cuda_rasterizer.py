"""gsplat behind the interface: what is missing is said; the same image, gradients and fits as on the CPU.

Without a GPU that is shown with gsplat's own Python and its PyTorch versions of the kernels, on one with the kernels.
"""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tasks.base.errors import ConfigError, GpuError
from tasks.splatting.render import cuda_rasterizer
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.cuda_rasterizer import CudaRasterizer, load_gsplat
from tasks.splatting.render.gaussians import Gaussians
from tests.tasks.splatting.fit_scene import arc, make_fit, make_scene, true_gaussians
from tests.tasks.splatting.gsplat_reference import rasterizer_without_gpu

BUILT = Path(os.environ["TORCH_EXTENSIONS_DIR"]) if "TORCH_EXTENSIONS_DIR" in os.environ else None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_that_is_what_is_said():
    with pytest.raises(GpuError, match="no CUDA device.*take device cpu"):
        CudaRasterizer()


def test_without_gsplat_that_is_what_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gsplat cannot be imported.*install gsplat 1.5.3"):
        load_gsplat()


@pytest.fixture
def gsplat(tmp_path, monkeypatch):
    """A package of that name, which takes its kernels from where gsplat does."""
    package = tmp_path / "gsplat"
    package.mkdir()
    (package / "__init__.py").write_text("from gsplat import csrc\nrasterization = csrc.draw\n")
    monkeypatch.syspath_prepend(tmp_path)
    real = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "gsplat"}
    for name in real:
        del sys.modules[name]
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "gsplat"]:
        del sys.modules[name]
    sys.modules.update(real)


@pytest.mark.parametrize("built", [False, True])
def test_gsplat_without_kernels_is_refused_before_it_compiles_any(gsplat, tmp_path, built):
    with pytest.raises(ConfigError, match=f"gsplat in {gsplat} has no kernels for this GPU.*yard kernels build"):
        load_gsplat(tmp_path / "kernels" if built else None)
    assert "gsplat" not in sys.modules


def test_kernels_that_do_not_load_are_named(gsplat, tmp_path):
    library = tmp_path / "kernels" / "gsplat_cuda" / "gsplat_cuda.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"half a library")
    with pytest.raises(ConfigError, match=f"kernels in {library} do not load"):
        load_gsplat(tmp_path / "kernels")


def test_kernels_that_were_built_are_taken(gsplat, tmp_path, monkeypatch):
    library = tmp_path / "kernels" / "gsplat_cuda" / "gsplat_cuda.so"
    library.parent.mkdir(parents=True)
    library.touch()
    kernels = ModuleType("gsplat_cuda")
    kernels.draw = print
    monkeypatch.setattr(cuda_rasterizer, "_loaded", lambda path: kernels if path == library else None)
    assert load_gsplat(tmp_path / "kernels") is print


def test_the_gradient_of_the_centres_is_left_with_what_was_given():
    means2d = torch.ones(1, 4, 2, requires_grad=True) * 2.0
    centers = cuda_rasterizer._watched(means2d)
    (means2d * torch.arange(8.0).view(1, 4, 2)).sum().backward()
    assert torch.equal(centers, torch.full((4, 2), 2.0))
    assert torch.equal(centers.grad, torch.arange(8.0).view(4, 2))


def random_gaussians(n=300):
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    means, scales = 0.6 * normal(n, 3), 0.6 * normal(n, 3) - 2.3
    return Gaussians(means, scales, normal(n, 4), normal(n), normal(n, 1, 3), 0.3 * normal(n, 15, 3))


def turned(pose):
    """Return the gradient by the camera's rotation (as a skew matrix) and place: what moving it can feel."""
    spin = pose.grad[:3, :3] @ pose[:3, :3].detach().T + pose.grad[:3, 3:] @ pose[:3, 3:].detach().T
    return torch.cat([(spin - spin.T).flatten(), pose.grad[:3, 3]])


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("sh_degree", range(4))
def test_what_gsplat_is_given_means_the_same_picture_and_gradients_as_on_the_cpu(monkeypatch, sh_degree, antialiased):
    camera, drawn, grads = arc(3)[1], [], []
    for rasterizer in (CpuRasterizer(), rasterizer_without_gpu(monkeypatch)):
        leaves = {name: t.clone().requires_grad_() for name, t in random_gaussians().tensors().items()}
        pose = torch.as_tensor(camera.world_to_camera, dtype=torch.float32).clone().requires_grad_()
        options = {"antialiased": antialiased, "background": torch.tensor([0.1, 0.5, 0.9]), "with_depth": True}
        found = rasterizer(Gaussians(**leaves), camera, sh_degree=sh_degree, pose=pose, **options)
        (found.colors * torch.linspace(0, 1, found.colors.numel()).view_as(found.colors)).sum().backward()
        drawn.append([found.colors, found.alphas, found.depths])
        grads.append([found.means2d.grad, turned(pose), *(leaf.grad for leaf in leaves.values())])
    for ours, theirs in zip(*drawn, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*grads, strict=True):
        assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm())


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_a_fit_by_gsplat_goes_as_one_on_the_cpu(tmp_path, monkeypatch, strategy):
    scene, ends = make_scene(tmp_path / "scene", 8), []
    windows = {"max_steps": 40, "refine_start": 10, "refine_stop": 30, "refine_every": 10, "reset_every": 900}
    for rasterizer in (None, rasterizer_without_gpu(monkeypatch)):
        *_, done = make_fit(scene, rasterizer=rasterizer, strategy=strategy, **windows).run()
        ends.append(done.result.metrics)
    ours, theirs = ends
    assert ours.n_gaussians == pytest.approx(theirs.n_gaussians, rel=0.05)  # one at a threshold falls on either side
    assert ours.psnr == pytest.approx(theirs.psnr, abs=0.3)
    assert ours.psnr > 20


@pytest.mark.gpu
@pytest.mark.parametrize("antialiased", [False, True])
def test_picture_and_gradients_are_those_of_the_cpu(antialiased):
    camera, grads, drawn = arc(3)[1], [], []
    for device, rasterizer in (("cpu", CpuRasterizer()), ("cuda", CudaRasterizer(kernels=BUILT))):
        leaves = {name: t.to(device).requires_grad_() for name, t in true_gaussians().tensors().items()}
        background = torch.tensor([0.1, 0.5, 0.9], device=device)
        options = {"sh_degree": 0, "antialiased": antialiased, "background": background, "with_depth": True}
        found = rasterizer(Gaussians(**leaves), camera, **options)
        found.colors.square().mean().backward()
        drawn.append([found.colors.cpu(), found.alphas.cpu(), found.depths.cpu()])
        grads.append([found.means2d.grad.cpu(), *(leaves[name].grad.cpu() for name in ("means", "scales", "sh0"))])
    for ours, theirs in zip(drawn[0], drawn[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)
    for ours, theirs in zip(grads[0], grads[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max()))
