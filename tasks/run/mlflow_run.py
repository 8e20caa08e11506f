"""The MLflow run of a training, held for a step with its device and its log."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_pools.placement.probe import Device, get_probe, resolve_device
from gpu_pools.process.run_setup import DEVICE, ON, read_meeting
from gpu_pools.slots.lease import own_holders
from gpu_pools.slots.slot_meter import slot_use
from gpu_pools.slots.use import SlotUse
from tasks.base.errors import TrackingError
from tasks.base.workspace import run_dir, run_path
from tasks.run.run_log import Logger, log_file, logger
from tasks.run.step_context import run_key
from tasks.run.stop_request import ended_by_signal

if TYPE_CHECKING:
    import torch
    from prefect.client.schemas.objects import State

    from tasks.tracking.tracker import Tracker


_SLOT = "slot/"  # section of MLflow's charts


def mlflow_run_name(run: str, stage: str = "training") -> str | None:
    """Return the name that a run's training, in a folder of that name, has in MLflow; None: it has none yet."""
    from tasks.tracking.journal import read_card

    folder = run_path(run)
    card = folder and read_card(folder / stage)
    return card.run_name if card else None


def mlflow_run_id(run: str, stage: str = "training") -> str | None:
    """Return the id of the MLflow run of a run's training, in a folder of that name; None: MLflow was always away."""
    from tasks.tracking.journal import read_card

    card = read_card(run_dir(run) / stage)
    assert card is not None, "a training that has ended has a card"
    return card.run_id


def is_tracking_error(task: object, run: object, state: "State[Any]") -> bool:
    """Return whether a step failed because MLflow did not take or give something."""
    return isinstance(state.result(raise_on_failure=False), TrackingError)


@contextmanager
def open_mlflow_run(
    folder: Path,
    parameters: dict[str, Any],
    wanted: str,
    experiment: str,
    name: str,
    *,
    free: Collection[str],
    last: bool,
) -> Iterator[tuple["Tracker", "torch.device", Logger]]:
    """Hold the MLflow run of a training, its device and its log file for the block.

    Args:
        folder, parameters, wanted, experiment, name, free: as of `hold_mlflow_run`.
        last: the MLflow run ends with the block; else it stays open for the next step.
    """
    import torch

    with hold_mlflow_run(folder, parameters, wanted, experiment, name, free=free) as (tracker, log):
        gpu = slot_gpu(wanted)
        yield tracker, torch.device("cuda" if gpu and not gpu.simulated else "cpu"), log
        if not last:
            tracker.leave_open()


def slot_gpu(wanted: str) -> Device | None:
    """Return the GPU of the run's slot; the wanted one of a step called as a plain function, which has no slot."""
    return resolve_device(os.environ.get(DEVICE, wanted), get_probe())


@contextmanager
def hold_mlflow_run(
    folder: Path, parameters: dict[str, Any], wanted: str, experiment: str, name: str, *, free: Collection[str]
) -> Iterator[tuple["Tracker", Logger]]:
    """Hold the MLflow run of a step that computes on a device, and its log file, for the block; it ends then.

    Args:
        folder: of the step; what restarts in it goes on in the same MLflow run.
        parameters: all that the run records.
        wanted: the device that was asked for.
        experiment: of MLflow.
        name: of the run.
        free: parameters, by their names with dots, that may change between a crash and the restart.
    """
    from tasks.tracking.foreign import ForeignWatch
    from tasks.tracking.mlflow_names import FLOW_RUN
    from tasks.tracking.system import SystemSampler
    from tasks.tracking.tracker import Tracker

    probe, gpu = get_probe(), slot_gpu(wanted)
    uuids = [holder.uuid for holder in own_holders()] or [gpu.uuid] if gpu else []
    where = os.environ.get(ON) or (gpu.tag if gpu else "cpu")
    device = device_text(where, [probe.device(uuid).name for uuid in uuids], read_meeting()[1])
    tags = {"device": device, FLOW_RUN: run_key()}
    opened = Tracker.open(folder, experiment, name, parameters, tags, free_to_change=free)
    with _logged(opened, folder) as (tracker, log):
        watch = ForeignWatch(tracker, log, probe, uuids) if uuids else nullcontext()
        with SystemSampler(tracker, probe, uuids), watch:
            yield tracker, log


def device_text(where: str, names: Sequence[str], others: Sequence[str] = ()) -> str:
    """Return what a run computes on, as people read it: `cpu`, `cuda:0,cuda:2 (2 x NVIDIA H200)`.

    Args:
        where: its devices on this host, as people write them.
        names: the product of each of its GPUs here.
        others: hosts with as many devices each that compute with this one.
    """
    products = ", ".join(f"{n} x {name}" if n > 1 else name for name, n in Counter(names).items())
    here = f"{where} ({products})" if products else where
    return f"{here}, and as many on {' and '.join(others)}" if others else here


@contextmanager
def reopen_mlflow_run(folder: Path) -> Iterator[tuple["Tracker", Logger]]:
    """Hold the MLflow run of a training that has ended, and its log file, for what needs no device; it ends then.

    Args:
        folder: of the training.

    Raises:
        TrackingError: the folder holds no run.
    """
    from tasks.tracking.tracker import Tracker

    with _logged(Tracker.reopen(folder), folder) as held:
        yield held


@contextmanager
def _logged(opened: "Tracker", folder: Path) -> Iterator[tuple["Tracker", Logger]]:
    """Hold an MLflow run and copy the step's log to it, however the block ends."""
    log = logger()
    with opened as tracker, log_file(log, folder / "run.log"), ended_by_signal(log):
        try:
            yield tracker, log
        finally:  # people read the log of a run that failed
            log_slot(tracker)
            tracker.artifact(folder / "run.log", "log")
    if opened.unsent:
        log.warning("%s", opened.unsent)


def log_slot(tracker: "Tracker") -> None:
    """Give MLflow how the slot was used so far; the last row of a run counts."""
    if (use := slot_use()) is not None:
        values = {f"{_SLOT}{name}": value for name, value in asdict(use).items()}
        tracker.metrics(values, max(tracker.logged_steps(f"{_SLOT}held_s"), default=-1) + 1)


def slot_line(tracker: "Tracker") -> str:
    """Return a line of Markdown on how the run used its slot; empty where nothing is known of that."""
    log_slot(tracker)
    said = SlotUse(*(tracker.latest(f"{_SLOT}{field.name}") for field in fields(SlotUse))).sentence()
    return f"\nSlot: {said}.\n" if said else ""
