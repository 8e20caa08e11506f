"""The names, units and labels of all metrics of a yard, as Prometheus' conventions have them."""

from dataclasses import dataclass
from typing import Final

_SLOT = ("device", "kind", "slot", "run", "run_name")


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: what it says, and its labels beside `host`, which all have."""

    text: str
    labels: tuple[str, ...] = ()


GAUGES: Final[dict[str, Family]] = {
    "trainyard_worker_last_turn_timestamp_seconds": Family("End of the worker's last turn, Unix time", ("worker",)),
    "trainyard_worker_draining": Family("1: the worker starts nothing more", ("worker",)),
    "trainyard_worker_runs": Family("Runs that the worker takes care of", ("worker",)),
    "trainyard_prefect_up": Family("1: Prefect's server has answered in the worker's last turn", ("worker",)),
    "trainyard_reading_up": Family("1: a part of these metrics could be read; its metrics are missing at 0", ("part",)),
    "trainyard_queue_runs": Family("Runs that are due and wait, of the whole pool", ("queue", "kind")),
    "trainyard_queue_oldest_age_seconds": Family(
        "Since the run that waits longest is due; missing while none waits", ("queue", "kind")
    ),
    "trainyard_queue_free_slots": Family("Slots of this host that a run of the queue could have", ("queue", "kind")),
    "trainyard_slots": Family("Slots of a device by kind of work, as the limit is set", ("device", "kind")),
    "trainyard_slots_held": Family("Slots that a run holds, by the locks of the host", ("device", "kind")),
    "trainyard_slots_free": Family("Slots that are open: not held, not paused, the GPU answers", ("device", "kind")),
    "trainyard_lease_age_seconds": Family("Since a run took its slot", (*_SLOT, "owner")),
    "trainyard_run_epochs_done": Family("Epochs, or what else it counts, that a run has done", (*_SLOT, "unit")),
    "trainyard_run_epochs_planned": Family("Epochs that the run will do in all", (*_SLOT, "unit")),
    "trainyard_run_epoch_seconds": Family("That the run takes for an epoch, as it reckons itself", (*_SLOT, "unit")),
    "trainyard_run_remaining_seconds": Family("Until the end of the run, as it reckons itself", (*_SLOT, "unit")),
    "trainyard_gpu_up": Family("1: the driver answers for the GPU", ("device",)),
    "trainyard_gpu_memory_used_bytes": Family("Memory of the GPU in use", ("device",)),
    "trainyard_gpu_memory_total_bytes": Family("Memory of the GPU", ("device",)),
    "trainyard_gpu_utilisation_ratio": Family("Share of the time in which the GPU computed, 0 to 1", ("device",)),
    "trainyard_gpu_temperature_celsius": Family("Temperature of the GPU", ("device",)),
    "trainyard_gpu_power_watts": Family("That the GPU draws", ("device",)),
    "trainyard_journal_backlog_rows": Family("Values of metrics that runs have kept and MLflow has not got yet"),
    "trainyard_journal_backlog_runs": Family("Runs that have kept such values"),
    "trainyard_disk_free_bytes": Family("Free on the disk of TRAINYARD_HOME"),
    "trainyard_disk_least_free_bytes": Family("Below that nothing new starts (TRAINYARD_MIN_FREE)"),
}

GPU_INFO: Final = "trainyard_gpu_info"
"""1 for each GPU, with its uuid and model."""

GAPS: Final = "trainyard_dispatch_gap_seconds"
"""A histogram by device and kind, see `gpu_pools.watching.gaps`."""

NAMES: Final = frozenset({*GAUGES, GPU_INFO, *(f"{GAPS}_{part}" for part in ("bucket", "count", "sum"))})
"""Of all samples that there can be."""
