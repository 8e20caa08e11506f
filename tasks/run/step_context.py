"""What every step uses: its folder, its log, its MLflow run, and the request to stop."""

import logging
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.events.worker import EventsWorker
from prefect.exceptions import MissingContextError
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run

from gpu_pools.placement.probe import get_probe, resolve_device
from gpu_pools.process.run_process import MARK
from gpu_pools.process.run_setup import DEADLINE, DEVICE, EXIT_STOPPED, ON, STOP_FILE
from gpu_pools.slots.lease import report_progress
from gpu_pools.slots.slot_meter import slot_use
from gpu_pools.slots.use import SlotUse
from gpu_pools.stopping import asked
from tasks.base.errors import ConfigError, Interrupted, StopAsked, TrackingError
from tasks.base.workspace import run_dir, run_path, storage_errors

if TYPE_CHECKING:
    import torch
    from prefect.client.schemas.objects import State

    from tasks.tracking.tracker import Tracker

_SLOT = "slot/"  # section of MLflow's charts
Logger = logging.Logger | logging.LoggerAdapter[Any]


def run_key() -> str:
    """Return the name of the running flow's folder under runs/."""
    return str(flow_run.id)


def given_name() -> str | None:
    """Return the name a person gave the running flow; None: it has two words that Prefect made up."""
    name = flow_run.name
    return None if not name or invented(str(name)) else str(name)


def invented(name: str) -> bool:
    """Return whether a run's name is one of those Prefect gives to what nobody named."""
    words = name.split("-")
    return len(words) == 2 and all(word in _words() for word in words)


@cache
def _words() -> frozenset[str]:
    from coolname import data

    config: Any = data.config
    return frozenset(word for part in config.values() if part["type"] == "words" for word in part["words"])


def time_left_s() -> float | None:
    """Return in how many seconds the worker will end this run; None: never."""
    deadline = os.environ.get(DEADLINE)
    return float(deadline) - time.time() if deadline else None


class ProgressReporter:
    """Tells those who wait for the run's device how far it is and about how long it will take, now and then.

    Args:
        unit: what is counted.
        every_s: seconds between two words at least.
    """

    def __init__(self, unit: str, every_s: float = 2.0) -> None:
        self._unit, self._every_s = unit, every_s
        self._first: tuple[float, int] | None = None
        self._said = float("-inf")

    def tell(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done.

        Raises:
            StorageError: the slot's record cannot be written.
        """
        now = time.monotonic()
        # The pace is that since the first ones: until then models were loaded and processes started.
        began, before = self._first = self._first or (now, done)
        if now - self._said < self._every_s:
            return
        self._said = now
        pace = (now - began) / (done - before) if done > before else None
        report_progress(done, total, None if pace is None else pace * (total - done), self._unit)


def logger() -> Logger:
    """Return the running step's log, which Prefect shows; a plain one where a step is called as a function."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("trainyard")


def step_dir(run: str | None, stage: str) -> Path:
    """Return the folder of a stage, below that of the run named, else of the running flow.

    Raises:
        ConfigError: the name could lead out of the folder of all runs.
    """
    key = run or run_key()
    if run_path(key) is None:
        raise ConfigError(f"found the run {key!r}, need letters, digits, '_', '-' and '.'")
    if MARK in os.environ and key != run_key():
        link = run_dir(run_key()) / "files"  # so that the files of this stage are found from its own run
        link.unlink(missing_ok=True)
        link.symlink_to(run_dir(key))
    return run_dir(key) / stage


def finished_training(run: str, finished: str) -> Path:
    """Return the folder of a run's training that has ended.

    Args:
        run: whose training it is.
        finished: the file that a training ends with.

    Raises:
        ConfigError: it has not, or there is none.
    """
    folder = step_dir(run, "training")
    if not (folder / finished).is_file():
        raise ConfigError(f"found no finished training in {folder}, need one to go on from")
    return folder


def mlflow_run_name(run: str) -> str | None:
    """Return the name that a run's training has in MLflow; None: it has none yet."""
    from tasks.tracking.journal import read_card

    folder = run_path(run)
    card = folder and read_card(folder / "training")
    return card.run_name if card else None


def mlflow_run_id(run: str) -> str:
    """Return the id of the MLflow run of a run's training."""
    from tasks.tracking.journal import read_card

    card = read_card(run_dir(run) / "training")
    assert card is not None, "a training that has ended has a card"
    assert card.run_id is not None, "a training ends once MLflow has all of it"
    return card.run_id


def is_tracking_error(task: object, run: object, state: "State[Any]") -> bool:
    """Return whether a step failed because MLflow did not take or give something."""
    return isinstance(state.result(raise_on_failure=False), TrackingError)


def stop_asked() -> bool:
    """Return whether this run is to save its state and end: the worker wants it to go on later, or a signal came."""
    path = os.environ.get(STOP_FILE)
    return asked() is not None or (path is not None and os.path.exists(path))


def exit_for_resume() -> None:
    """End this process at once: run and MLflow run stay as they are, until the worker starts the run again."""
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)
    os._exit(EXIT_STOPPED)


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


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
        folder: of the training; what restarts in it goes on in the same MLflow run.
        parameters: all that the run records.
        wanted: the device that was asked for.
        experiment: of MLflow.
        name: of the run.
        free: parameters, by their names with dots, that may change between a crash and the restart.
        last: the MLflow run ends with the block; else it stays open for the next step.
    """
    import torch

    from tasks.tracking.foreign import ForeignWatch
    from tasks.tracking.system import SystemSampler
    from tasks.tracking.tracker import Tracker

    probe = get_probe()
    # The slot decides; a step called as a plain function has none.
    gpu = resolve_device(os.environ.get(DEVICE, wanted), probe)
    device = torch.device("cuda" if gpu and not gpu.simulated else "cpu")
    where = os.environ.get(ON) or (gpu.tag if gpu else "cpu")
    tags = {"device": f"{where} ({gpu.name})" if gpu else where, "prefect.flow_run_id": run_key()}
    opened = Tracker.open(folder, experiment, name, parameters, tags, free_to_change=free)
    with _logged(opened, folder) as (tracker, log):
        watch = ForeignWatch(tracker, log, probe, gpu.uuid) if gpu else nullcontext()
        with SystemSampler(tracker, probe, gpu.uuid if gpu else None), watch:
            yield tracker, device, log
        if not last:
            tracker.leave_open()


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


@contextmanager
def ended_by_signal(log: Logger) -> Iterator[None]:
    """Once a signal has come, whatever ends the block is that signal.

    Raises:
        Interrupted: instead of StopAsked, which a state that was saved ends with, or of an error that came of the end.
    """
    try:
        yield
    except (StopAsked, Exception) as exc:  # raised again, unless a signal is behind it
        if asked() is None:
            raise
        log.info("%s", exc)
        raise Interrupted(str(exc)) from exc


class _RunLog(logging.FileHandler):
    """A log file that says once, not with a traceback for every line, that it cannot be written."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # logging calls it so
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(f"lines are missing in {self.baseFilename}: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # told above
            super().close()


@contextmanager
def log_file(log: Logger, path: Path) -> Iterator[None]:
    """Copy the step's log lines to a file for the block."""
    target = log.logger if isinstance(log, logging.LoggerAdapter) else log
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    target.addHandler(handler)
    try:
        yield
    finally:
        target.removeHandler(handler)
        handler.close()
