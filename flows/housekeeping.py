"""Housekeeping: what nobody needs any more is removed, hourly."""

from pathlib import Path

from prefect import flow

from gpu_pools.slots.local_slot import on_device
from tasks.housekeeping import steps
from tasks.housekeeping.params import KeepParams


@flow(name="housekeeping", flow_run_name="housekeeping")
def housekeeping(dry_run: bool = False, keep: KeepParams = KeepParams()) -> Path:
    """Remove what nobody needs any more: files of runs, checkpoints, cache, records; a receipt says what and why.

    Args:
        dry_run: remove nothing, and say what would go.
        keep: how long, or up to which size, each kind of thing is kept.

    Returns:
        The file of the receipt.
    """
    with on_device("cpu", "housekeeping"):
        return steps.keep_house(dry_run, keep)
