"""Chooses what draws on a device."""

import os

import torch

from gpu_pools.kernels import own_kernels
from tasks.splatting.params import SplatParams
from tasks.splatting.render.rasterizer import Rasterizer


def rasterizer_on(device: torch.device, params: SplatParams) -> Rasterizer:
    """Return what draws on a device.

    Args:
        device: of the fit.
        params: of the fit.

    Raises:
        ConfigError: a GPU's kernels are not there.
    """
    if device.type == "cuda":
        from tasks.splatting.render.cuda_rasterizer import CudaRasterizer  # noqa: PLC0415 - not there without a GPU

        return CudaRasterizer(near_plane=params.near_plane, kernels=own_kernels())
    from tasks.splatting.render.cpu_rasterizer import CpuRasterizer  # noqa: PLC0415 - its compiler, where it is used

    return CpuRasterizer(num_threads=n_threads(params), near_plane=params.near_plane)


def n_threads(params: SplatParams) -> int:
    """Return how many threads of the CPU a process of a fit uses."""
    return params.num_threads or max(1, len(os.sched_getaffinity(0)) // params.n_devices)
