"""Draws Gaussians on an NVIDIA GPU by gsplat's kernels."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tasks.base.errors import ConfigError, GpuError
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import DrawOptions, Rasterizer, Rendered
from tasks.splatting.render.triton_parts import triton_part

_KERNELS = "gsplat.csrc"
"""Where gsplat looks for compiled kernels before it has torch build them."""

_MOST_CAMERAS = 4096
"""Cameras whose matrices are kept on the GPU, a kilobyte each."""


class CudaRasterizer(Rasterizer):
    """A `Rasterizer` on the current CUDA device.

    Args:
        near_plane: Gaussians whose centre is nearer are not drawn, world units.
        kernels: the folder in which they were built; None: gsplat came with its own.

    Raises:
        GpuError: torch sees no GPU.
        ConfigError: gsplat is not installed, or its kernels are not built.
    """

    def __init__(self, *, near_plane: float = 0.01, kernels: Path | None = None) -> None:
        if not torch.cuda.is_available():
            raise GpuError(
                "torch sees no CUDA device, and gsplat's kernels need one: check nvidia-smi and CUDA_VISIBLE_DEVICES, "
                "or take device cpu"
            )
        self._rasterization = load_gsplat(kernels)
        self._kernels = sys.modules.get(_KERNELS)
        self._cameras: dict[int, tuple[Camera, Tensor, Tensor]] = {}
        self.near_plane = near_plane

    def draw(self, gaussians: Gaussians, camera: Camera, options: DrawOptions) -> Rendered:
        """Draw one image."""
        own_pose, lens = self._placed(camera, gaussians.means.device)
        pose = own_pose if options.pose is None else options.pose
        fused = triton_part("render.fused_draw", gaussians.means.device)
        if options.with_depth or fused is None or self._kernels is None:
            return self._by_gsplat(gaussians, camera, pose, lens, options)
        size = (camera.width, camera.height)
        view = fused.DrawCall(lens, *size, self.near_plane, options.sh_degree, options.antialiased)
        g = gaussians
        fitted = (g.means, g.scales, g.quats, g.opacities, g.sh0, g.shN)
        image, alphas = fused.Draw.apply(*fitted, pose, options.background, view, self._kernels)
        return Rendered(image, alphas, None, view.centers, view.radii)

    def _placed(self, camera: Camera, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return world to camera (4, 4) and the intrinsics (1, 3, 3); a camera is put on the GPU once."""
        known = self._cameras.get(id(camera))
        if known is None or known[1].device != device:
            if len(self._cameras) >= _MOST_CAMERAS:
                self._cameras.clear()
            pose = torch.as_tensor(camera.world_to_camera, dtype=torch.float32).to(device)
            lens = torch.tensor([[[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]])
            known = self._cameras[id(camera)] = (camera, pose, lens.to(device))  # kept, so that its id is not reused
        return known[1], known[2]

    def _by_gsplat(
        self, gaussians: Gaussians, camera: Camera, pose: Tensor, lens: Tensor, options: DrawOptions
    ) -> Rendered:
        """Draw by gsplat's own function: depths, and all where Triton is not to be had."""
        colors, alphas, meta = self._rasterization(
            means=gaussians.means,
            quats=gaussians.quats,
            scales=torch.exp(gaussians.scales),
            opacities=torch.sigmoid(gaussians.opacities),
            colors=torch.cat([gaussians.sh0, gaussians.shN], 1),
            viewmats=pose[None],
            Ks=lens,
            width=camera.width,
            height=camera.height,
            near_plane=self.near_plane,
            sh_degree=options.sh_degree,
            packed=False,
            backgrounds=None,
            render_mode="RGB+ED" if options.with_depth else "RGB",
            rasterize_mode="antialiased" if options.antialiased else "classic",
        )
        image, alpha = colors[0, ..., :3], alphas[0, ..., 0]
        if options.background is not None:
            # Not by gsplat: it would want a background for the depths as well.
            image = image + (1 - alpha)[..., None] * options.background
        depths = colors[0, ..., 3].detach() if options.with_depth else None
        return Rendered(image, alpha, depths, _watched(meta["means2d"]), meta["radii"][0])


def _watched(means2d: Tensor) -> Tensor:
    """Return the centres (N, 2) of the one image (1, N, 2), which get their gradient when those get theirs.

    A slice of them would be no part of the graph that the kernels' backward pass goes through.
    """
    centers = means2d.detach()[0]
    if means2d.requires_grad:

        def keep(gradient: Tensor) -> None:
            centers.grad = gradient[0].detach()

        means2d.register_hook(keep)
    return centers


def load_gsplat(kernels: Path | None = None) -> Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]:
    """Return gsplat's `rasterization`, with its kernels loaded.

    Left to itself gsplat has torch ask ninja whether its kernels are current, and compile for twenty minutes, holding
    the GPU, where they are not; so the library is put where gsplat looks first.

    Args:
        kernels: the folder of a build; None: gsplat came with its own.

    Raises:
        ConfigError: gsplat is not installed, or its kernels are not built, or do not load.
    """
    found = importlib.util.find_spec("gsplat")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "gsplat cannot be imported, and splats are fitted on a GPU by its kernels: install gsplat 1.5.3 into this "
            "environment (pip install -e '.[gpu]'), or take device cpu"
        )
    package = Path(found.submodule_search_locations[0])
    library = next(iter(sorted(kernels.glob("*/gsplat_cuda.so"))), None) if kernels else None
    if library is None and not any(package.glob("csrc*.so")):
        raise ConfigError(
            f"gsplat in {package} has no kernels for this GPU in {kernels or 'any folder'}: `yard kernels build` "
            "compiles them, or take device cpu"
        )
    try:
        if library is not None and _KERNELS not in sys.modules:
            sys.modules[_KERNELS] = _loaded(library)
        return importlib.import_module("gsplat").rasterization
    except ImportError as exc:
        raise ConfigError(f"gsplat's kernels in {library or package} do not load ({exc}): build them again") from exc


def _loaded(library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gsplat_cuda", library)  # its name when it was compiled
    assert spec is not None, "a .so is a module"
    assert spec.loader is not None, "a file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
