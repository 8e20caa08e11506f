"""Keeps a training in its folder: checkpoints, best weights and history, and the way back from them."""

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
import torch
from torch import Tensor

from gpu_pools.placement.disk import Need, check_fits
from gpu_pools.stopping import never
from tasks.base.errors import ConfigError, Interrupted, PutBack, StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.run.checkpoint import Checkpoint, fingerprint_of, load_tensors, save_tensors
from tasks.run.disk_need import training_need
from tasks.run.resume_point import FINISHED
from tasks.training.events import BatchDone, EpochBasics, EpochDone, columns_of, epoch_from
from tasks.training.optim import deterministic
from tasks.training.parallel.helpers import Helpers
from tasks.training.parallel.ranks import Ranks
from tasks.training.params import TrainingParams
from tasks.training.precision import Precision
from tasks.training.threads import choose_threads
from tasks.training.trainer import BaseTrainer

CHECKPOINT_SHARE = 0.01  # of the time, at most, goes into checkpoints at the ends of epochs
P = TypeVar("P", bound=TrainingParams)
T = TypeVar("T", bound=BaseTrainer[Any, Any, Any])
M = TypeVar("M", bound=EpochBasics)


class FolderSession(ABC, Generic[P, T, M]):
    """One training in a folder of its own: parameters P, a loop T, and metrics M of each epoch.

    Args:
        dataset: what is trained and validated on.
        folder: of this training alone; a checkpoint in it is gone on from.
        params: as the run has them.
        device: to train on.
        cache: folder for what all runs share, such as measurements.
        clock_ms: Unix time in milliseconds.
        stop_asked: looked at after every batch trained; once it is true, the state goes to disk and `run` raises
            StopAsked.

    Raises:
        DatasetError, ConfigError: the data set cannot be trained on.
    """

    METRICS: type[M]
    FREE_TO_CHANGE: frozenset[str]
    """Parameters that a training that goes on may have changed."""
    CHECKPOINT = "checkpoint.pt"
    LEFTOVERS: tuple[str, ...] = (".*.pt.*", "best-*.pt")
    """What a killed attempt may have left in the folder."""

    def __init__(
        self,
        dataset: Path,
        folder: Path,
        params: P,
        device: torch.device,
        *,
        cache: Path,
        clock_ms: Callable[[], int],
        stop_asked: Callable[[], bool] = never,
    ) -> None:
        self.dataset, self.folder, self.params, self.device, self.cache = dataset, folder, params, device, cache
        self._clock_ms, self._stop_asked = clock_ms, stop_asked
        self.history: list[EpochDone[M]] = []
        self.best: Path | None = None
        self._helpers: Helpers | None = None
        self._best_weights: dict[str, Tensor] | None = None  # not on disk yet: the next checkpoint takes them
        self.checkpoint = Checkpoint(folder / self.CHECKPOINT, lambda: self._clock_ms() / 1000)
        self._open_dataset()

    @abstractmethod
    def _open_dataset(self) -> None:
        """Look at what is trained on, as far as that takes no time."""

    def run(self) -> Iterator[Any]:
        """Train to the end, the state going to disk on the way.

        Raises:
            ConfigError: the checkpoint belongs to other parameters or other data.
            DatasetError, WeightsError, TrainingError, StorageError: as their names say.
            StopAsked: `stop_asked` became true; a session in the same folder goes on after the last batch.
        """
        if self.params.n_processes == 1:
            yield from self._read_data()
            yield from self._train()
            return
        p = self.params
        with Helpers(self._task(), p.n_processes, self.device, n_local=p.n_local) as self._helpers:
            yield from self._read_data()  # while they import what they need
            yield from self._train()

    def _task(self) -> dict[str, Any]:
        """Return how another process opens this training to compute a share of it."""
        return {
            "session": f"{type(self).__module__}:{type(self).__qualname__}",
            "params_type": f"{type(self.params).__module__}:{type(self.params).__qualname__}",
            "params": self.params.model_dump(mode="json"),
            "dataset": str(self.dataset),
            "folder": str(self.folder),
            "cache": str(self.cache),
        }

    def find_data(self) -> None:
        """Look for what is trained on, in a process that helps another one."""
        raise NotImplementedError

    def help(self, precision: Precision, connect: Callable[[], Ranks]) -> None:
        """Compute a share of the training of another process, which keeps what comes of it.

        Args:
            precision: that the other one trains in.
            connect: waits until all are there; nothing is written from the other one's start until then.
        """
        saved = load_tensors(self.checkpoint.path) if self.checkpoint.path.is_file() else None
        torch.manual_seed(self.params.seed)
        trainer, _ = self._trainer(precision, fresh=saved is None)
        if saved is not None:
            trainer.load_state_dict(saved["trainer"])
        trainer.join(connect())
        with deterministic(self.params.deterministic):
            for _ in self._events(trainer):
                pass

    @abstractmethod
    def _read_data(self) -> Iterator[Any]:
        """Read what is needed before the training begins, and `data_digest` where there is a checkpoint."""

    @abstractmethod
    def data_digest(self) -> str:
        """Return one digest over all that is trained on and validated on."""

    @abstractmethod
    def _new_precision(self) -> tuple[Precision, str]:
        """Choose the number format of a training that begins; return it, and a sentence on it."""

    @abstractmethod
    def _trainer(self, precision: Precision, *, fresh: bool) -> tuple[T, list[str]]:
        """Return the loop, and what a person should know of its first weights; not fresh: a checkpoint has others."""

    @abstractmethod
    def _events(self, trainer: T) -> Iterator[BatchDone | M]:
        """Run the loop on the data."""

    @abstractmethod
    def _finish(self, trainer: T) -> None:
        """Write the files people use, then the mark that says they are whole."""

    def disk_need(self, trainer: T) -> Need:
        """Return how much of the disk the training takes."""
        weights = sum(tensor.nbytes for tensor in trainer.graded_model.state_dict().values())
        p = self.params
        return training_need(weights, n_moments=p.n_moments, averaged=p.ema_decay > 0, n_kept=p.n_kept)

    def _epoch_ended(self, trainer: T, metrics: M) -> None:
        """Do what else there is to do at the end of an epoch."""

    def _columns(self, metrics: M) -> dict[str, Any]:
        """Return the columns that history.csv has for an epoch."""
        return columns_of(metrics)

    @property
    def finished(self) -> bool:
        """Return whether the folder already holds the finished training."""
        return (self.folder / FINISHED).is_file()

    def load_finished(self) -> None:
        """Take the history of a training that was finished earlier from its folder."""
        self._take_history(json.loads((self.folder / FINISHED).read_text())["history"])

    def _take_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.history = [epoch_from(row, self.METRICS) for row in rows]

    def _train(self) -> Iterator[Any]:
        """Train on data that is at hand, from where the folder stands to the finished files."""
        saved = self.checkpoint.load(self._fingerprint()) if self.checkpoint.path.is_file() else None
        torch.manual_seed(self.params.seed)
        self._remove_leftovers(saved["best_file"] if saved else None)
        precision, why = self._new_precision() if saved is None else self._saved_precision(saved)
        yield Note(why)
        if saved is None and self._helpers is None and self.device.type == "cpu" and (said := choose_threads()):
            yield Note(said)
        trainer, notes = self._trainer(precision, fresh=saved is None)
        yield from (Note(text) for text in notes)
        if saved is None:
            yield Note(check_fits(self.disk_need(trainer), self.folder))
        else:
            yield self._take_over(trainer, saved)
        if self._helpers is not None:
            trainer.join(self._helpers.join(precision))
            yield Note(f"trains in {trainer.ranks.size} processes, each on a share of every batch")
        yield from self._kept(trainer, self._events(trainer))
        self._finish(trainer)

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.params, self.FREE_TO_CHANGE, self.data_digest())

    def _saved_precision(self, saved: Mapping[str, Any]) -> tuple[Precision, str]:
        """Return the number format that a training began in, and a sentence on it.

        Raises:
            ConfigError: it needs a GPU, and this is none.
        """
        precision: Precision = saved["trainer"]["precision"]
        if precision == "fp16" and self.device.type == "cpu":
            raise ConfigError(f"the training in {self.folder} began in fp16, which needs a GPU: found device cpu")
        return precision, f"precision {precision}, as before"

    def _take_over(self, trainer: T, saved: Mapping[str, Any]) -> Note:
        """Go on from what was saved; return a sentence on where."""
        trainer.load_state_dict(saved["trainer"])
        # Sums depend, in their last bits, on how many threads share them.
        torch.set_num_threads(saved["threads"])
        self._take_history(saved["history"])
        self.best = self.folder / saved["best_file"] if saved["best_file"] else None
        return Note(f"goes on at epoch {trainer.epoch}, batch {trainer.batch}, from {self.checkpoint.path}")

    def _kept(self, trainer: T, events: Iterable[Any]) -> Iterator[Any]:
        """Pass on the events of a trainer, its state going to disk on the way.

        Raises:
            StopAsked: `stop_asked` became true; the state is on disk.
            PutBack: a host that trains, too, has to leave; the state is on disk.
        """
        with deterministic(self.params.deterministic):
            try:
                for event in events:
                    yield from self._keep(trainer, event)
                    if self._stop_asked() and not trainer.done:  # at the end, finishing takes less time than stopping
                        raise StopAsked(f"stopped in epoch {trainer.epoch} after batch {trainer.batch}, as asked")
                    if self._helpers is not None and self._helpers.leaving and not trainer.done:
                        raise PutBack(f"{self._helpers.leaving}: waits for its hosts again, its state is saved")
            except (StopAsked, Interrupted):  # the latter between batches that are validated on
                self._save(trainer)
                raise

    def _keep(self, trainer: T, event: Any) -> Iterator[Any]:
        """Put the state on disk when it is time, then pass the event on."""
        if isinstance(event, BatchDone):
            if self.checkpoint.age_s >= self.params.checkpoint_every_s:
                self._save(trainer)
            yield event
            return
        if event.is_best:
            # Named by its epoch, which the checkpoint holds, so that both are always of the same epoch.
            self.best = self.folder / f"best-{event.epoch:04d}.pt"
            state = trainer.graded_model.state_dict()
            self._best_weights = {name: value.to("cpu", copy=True) for name, value in state.items()}
        self._epoch_ended(trainer, event)
        self.history.append(EpochDone(event, self._clock_ms()))
        # Of epochs shorter than that, several are trained again after a crash, with the same metrics.
        if self.checkpoint.age_s >= min(self.params.checkpoint_every_s, self.checkpoint.cost_s / CHECKPOINT_SHARE):
            self._save(trainer)
        yield from (Note(text) for text in event.notes)
        yield self.history[-1]

    def _save(self, trainer: T) -> None:
        best = {self.best: self._best_weights} if self.best is not None and self._best_weights is not None else {}
        state = {
            "trainer": trainer.state_dict(),
            "history": self._plain_history(),
            "best_file": self.best.name if self.best else None,
            "threads": torch.get_num_threads(),
        }
        self.checkpoint.save(state, self._fingerprint(), before=best)
        self._best_weights = None
        for stale in set(self.folder.glob("best-*.pt")) - {self.best}:
            stale.unlink()

    def _plain_history(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(row) for row in self.history]

    def _remove_leftovers(self, best_file: str | None) -> None:
        """Remove what a killed attempt left: partial files, and weights that no checkpoint points to."""
        for pattern in self.LEFTOVERS:
            for path in self.folder.glob(pattern):
                if path.name != best_file:
                    path.unlink(missing_ok=True)

    def _put_best(self) -> None:
        """Give the best weights the name that people know."""
        assert self.best is not None, "the first epoch is always the best so far"
        if self._best_weights is not None:
            save_tensors(self.folder / "best.pt", self._best_weights)
        elif self.best.is_file():  # else a restart after the renaming
            os.replace(self.best, self.folder / "best.pt")

    def _write_history(self) -> None:
        rows = [{**self._columns(row.metrics), "timestamp_ms": row.timestamp_ms} for row in self.history]
        write_atomic(self.folder / "history.csv", pd.DataFrame(rows).to_csv(index=False).encode())

    def _write_seen(self, digests: Iterable[str]) -> None:
        """Write what was trained on, or used to choose the weights: a later model is compared on other files."""
        write_json(self.folder / "seen_digests.json", sorted(set(digests)))

    def _mark_finished(self, found: Mapping[str, Any]) -> None:
        """Write the mark that says that all files are whole, and remove what a restart would have needed."""
        values = {"history": self._plain_history(), **found, "data_digest": self.data_digest()}
        write_json(self.folder / FINISHED, values)
        self.checkpoint.path.unlink(missing_ok=True)
        for stale in self.folder.glob("best-*.pt"):
            stale.unlink()

    def _mark_trained(self, trainer: T, best: str) -> None:
        """Write the mark of a training that came to its end; `best` is the name of what epochs are compared by."""
        stopping = trainer.stopping
        found = {"stopped_early": stopping.stopped, "best_epoch": stopping.best_epoch, best: stopping.best[0]}
        self._mark_finished({**found, "precision": trainer.precision})
