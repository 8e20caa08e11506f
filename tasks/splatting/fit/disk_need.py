"""Estimates from its settings how much room the fit of a splat takes on the disk."""

from gpu_pools.placement.disk import Need
from tasks.splatting.fit.presets import Settings, settings
from tasks.splatting.params import SplatParams

_COPIES = 6  # three numbers for each value, in two checkpoints


def fit_need(found: Settings) -> Need:
    """Return the bytes that a fit takes at the moment when it takes most.

    A checkpoint holds each Gaussian with two moments of Adam, and is there twice while it is replaced. The files that
    people use take less, with their copies in MLflow: by then the checkpoint is gone.
    """
    floats = 3 + 3 + 4 + 1 + 3 * (found.sh_degree + 1) ** 2  # mean, scale, quaternion, opacity, colour
    return Need(_COPIES * 4 * floats * found.cap_max, f"checkpoints of up to {found.cap_max:,} Gaussians")


def splat_need(params: SplatParams) -> Need:
    """Return the bytes that a fit with these parameters takes, before its device is known."""
    return fit_need(settings(params, "cpu" if params.device.rpartition("/")[2] == "cpu" else "cuda"))
