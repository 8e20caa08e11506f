"""gsplat behind the interface: what is missing is said; on a GPU, the same picture and gradients as on the CPU."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tasks.errors import ConfigError, GpuError
from tasks.splatting import cuda_rasterizer
from tasks.splatting.cpu_rasterizer import CpuRasterizer
from tasks.splatting.cuda_rasterizer import CudaRasterizer, load_gsplat
from tasks.splatting.gaussians import Gaussians
from tests.tasks.splatting.fit_scene import arc, true_gaussians

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
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "gsplat"]:
        del sys.modules[name]


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
