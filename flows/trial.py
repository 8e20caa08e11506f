"""A trial of a device, as a run on a slot of it."""

from pathlib import Path

from prefect import flow

from gpu_pools.slots.local_slot import on_device
from tasks.trial import steps
from tasks.trial.params import TrialParams


@flow(name="try_device", flow_run_name="try-{trial.device}")
def try_device(trial: TrialParams = TrialParams()) -> Path:
    """Try a device on generated data for some minutes: what it computes, how fast, and whether it is one run's alone.

    Args:
        trial: which device.

    Returns:
        The file of the report.
    """
    with on_device(trial.device, "training"):
        return steps.try_device(trial)
