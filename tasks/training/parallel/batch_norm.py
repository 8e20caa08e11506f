"""Batch norm over the images of all processes, without waiting for the GPU in every layer."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def synchronise_batch_norm(model: nn.Module, n_processes: int) -> None:
    """Let every batch norm of a model, in place, normalise by the statistics of all processes while it trains.

    Parameters, buffers and their names stay: an optimiser knows them, and a checkpoint fits a model of one process.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SharedBatchNorm):
                setattr(module, name, SharedBatchNorm(child, n_processes))


def set_counted(model: nn.Module, *, counted: bool) -> None:
    """Say whether what this process computes next belongs to the batch, or only keeps step with the others."""
    for module in model.modules():
        if isinstance(module, SharedBatchNorm):
            module.counted = counted


class SharedBatchNorm(nn.Module):
    """A batch norm that takes mean and variance of a batch over all processes.

    torch's SyncBatchNorm refuses the CPU, and on a GPU waits in each layer for how many images each process has
    (53 times a step of ResNet-50). Here a process without images counts with a weight of 0, on the device; so does one
    whose images are none of the batch (`counted` is False), which neither change the statistics nor learn from them.

    Source: the gradient of batch norm (arXiv:1502.03167), sums over all processes; the joint variance of parts by
    Chan et al., "Algorithms for computing the sample variance" (1983).

    Args:
        norm: whose parameters and buffers it takes; with affine parameters and running statistics.
        n_processes: that train together, at least 2.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, n_processes: int) -> None:
        super().__init__()
        if norm.momentum is None or norm.running_mean is None or norm.weight is None:
            raise ValueError(f"found {norm}, need a batch norm with weights, running statistics and a momentum")
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.eps, self.momentum, self._n_processes = norm.eps, norm.momentum, n_processes
        self.counted = True
        self.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C, ...) normalised by channel."""
        mean, var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        if not self.training:
            return F.batch_norm(images, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        cast(Tensor, self.num_batches_tracked).add_(1)
        args = (images, self.weight, self.bias, mean, var, self.eps, self.momentum, self._n_processes, self.counted)
        return cast(Tensor, _Normalise.apply(*args))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
        n_processes: int,
        counted: bool,
    ) -> Tensor:
        own, n = _local(images)
        mean, var, count = _joint(own, n if counted else torch.zeros_like(n), n_processes)
        ctx.counted = counted
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / (count - 1)), momentum)  # the running one is the sample's, as in torch
        ctx.save_for_backward(images, weight, mean, (var + eps).rsqrt(), count)
        return F.batch_norm(images, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        dims, shape = _all_but_channels(images), (1, -1, *[1] * (images.ndim - 2))
        slope = gradient.to(scale.dtype)
        normal = (images.to(scale.dtype) - mean.view(shape)) * scale.view(shape)
        sums = torch.stack([slope.sum(dims), (slope * normal).sum(dims)])  # (2, C)
        grad_bias, grad_weight = sums.clone()  # DistributedDataParallel adds these up
        dist.all_reduce(sums)
        mean_slope, mean_product = (each.view(shape) for each in sums / count)
        if ctx.counted:  # else mean and variance are no function of these images
            slope = slope - mean_slope - normal * mean_product
        own = (weight * scale).view(shape) * slope
        return own.to(images.dtype), grad_weight, grad_bias, None, None, None, None, None, None


def _local(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance by channel, (2, C) float32 at least, and of how many values they are, a scalar."""
    wide = images if images.dtype == torch.float64 else images.float()
    n = images.numel() // images.shape[1]
    if n == 0:
        return wide.new_zeros(2, images.shape[1]), wide.new_zeros(())
    var, mean = torch.var_mean(wide, _all_but_channels(images), correction=0)
    return torch.stack([mean, var]), torch.full_like(mean[0], n)


def _joint(own: Tensor, n: Tensor, n_processes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance (C,) and number of values of all processes together."""
    packed = torch.cat([own.flatten(), n.view(1)])
    found = [torch.empty_like(packed) for _ in range(n_processes)]
    dist.all_gather(found, packed)
    every = torch.stack(found)
    counts = every[:, -1]
    total = counts.sum()
    means, variances = every[:, :-1].view(n_processes, 2, -1).unbind(1)
    shares = (counts / total)[:, None]
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), total


def _all_but_channels(images: Tensor) -> list[int]:
    return [dim for dim in range(images.ndim) if dim != 1]
