"""Keeps a training in its folder: checkpoints, best weights and history, and the way back from them."""

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gpu_pools.stopping import never
from tasks.base.errors import ConfigError, Interrupted, StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_json
from tasks.run.checkpoint import Checkpoint, save_tensors
from tasks.run.resume_point import FINISHED
from tasks.training.events import BatchDone
from tasks.training.optim import deterministic
from tasks.training.precision import Precision

CHECKPOINT_SHARE = 0.01  # of the time, at most, goes into checkpoints at the ends of epochs
E = TypeVar("E")


class SessionSettings(Protocol):
    """What the parameters of a training say of its checkpoints."""

    @property
    def checkpoint_every_s(self) -> float:
        """Return the seconds between two checkpoints at most."""

    @property
    def deterministic(self) -> bool:
        """Return whether the result is to be the same on a GPU, too."""


class SavedTrainer(Protocol):
    """A loop whose state can be saved after each batch and epoch."""

    epoch: int
    batch: int

    @property
    def done(self) -> bool:
        """Whether it is over."""

    @property
    def graded_model(self) -> nn.Module:
        """What is validated and kept."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""


class FolderSession(ABC, Generic[E]):
    """One training in a folder of its own; its history holds rows of type E.

    Args:
        folder: of this training alone; a checkpoint in it is gone on from.
        checkpoint: name of that file.
        params: as the run has them.
        device: to train on.
        clock_ms: Unix time in milliseconds.
        stop_asked: looked at after every batch trained.
    """

    LEFTOVERS: tuple[str, ...] = (".*.pt.*", "best-*.pt")
    """What a killed attempt may have left in the folder."""

    def __init__(
        self,
        folder: Path,
        checkpoint: str,
        params: SessionSettings,
        device: torch.device,
        *,
        clock_ms: Callable[[], int],
        stop_asked: Callable[[], bool] = never,
    ) -> None:
        self.folder, self.device = folder, device
        self._settings, self._clock_ms, self._stop_asked = params, clock_ms, stop_asked
        self.history: list[E] = []
        self.best: Path | None = None
        self._best_weights: dict[str, Tensor] | None = None  # not on disk yet: the next checkpoint takes them
        self.checkpoint = Checkpoint(folder / checkpoint, lambda: self._clock_ms() / 1000)

    @abstractmethod
    def _row(self, metrics: Any, timestamp_ms: int) -> E:
        """Return the row of the history for an epoch that ended then."""

    @abstractmethod
    def _row_from(self, values: Mapping[str, Any]) -> E:
        """Return the row that `asdict` turned into plain values."""

    @abstractmethod
    def _fingerprint(self) -> dict[str, str]:
        """Return what the result depends on, as text."""

    @abstractmethod
    def data_digest(self) -> str:
        """Return one digest over all that is trained on and validated on."""

    def _epoch_ended(self, trainer: SavedTrainer, metrics: Any) -> None:
        """Do what else there is to do at the end of an epoch."""

    @property
    def finished(self) -> bool:
        """Return whether the folder already holds the finished training."""
        return (self.folder / FINISHED).is_file()

    def load_finished(self) -> None:
        """Take the history of a training that was finished earlier from its folder."""
        rows = json.loads((self.folder / FINISHED).read_text())["history"]
        self.history = [self._row_from(row) for row in rows]

    def _saved_precision(self, saved: Mapping[str, Any]) -> tuple[Precision, str]:
        """Return the number format that a training began in, and a sentence on it.

        Raises:
            ConfigError: it needs a GPU, and this is none.
        """
        precision: Precision = saved["trainer"]["precision"]
        if precision == "fp16" and self.device.type == "cpu":
            raise ConfigError(f"the training in {self.folder} began in fp16, which needs a GPU: found device cpu")
        return precision, f"precision {precision}, as before"

    def _take_over(self, trainer: SavedTrainer, saved: Mapping[str, Any]) -> Note:
        """Go on from what was saved; return a sentence on where."""
        trainer.load_state_dict(saved["trainer"])
        # Sums depend, in their last bits, on how many threads share them.
        torch.set_num_threads(saved["threads"])
        self.history = [self._row_from(row) for row in saved["history"]]
        self.best = self.folder / saved["best_file"] if saved["best_file"] else None
        return Note(f"goes on at epoch {trainer.epoch}, batch {trainer.batch}, from {self.checkpoint.path}")

    def _kept(self, trainer: SavedTrainer, events: Iterable[Any]) -> Iterator[Any]:
        """Pass on the events of a trainer, its state going to disk on the way.

        Raises:
            StopAsked: `stop_asked` became true; the state is on disk.
        """
        with deterministic(self._settings.deterministic):
            try:
                for event in events:
                    yield from self._keep(trainer, event)
                    if self._stop_asked() and not trainer.done:  # at the end, finishing takes less time than stopping
                        raise StopAsked(f"stopped in epoch {trainer.epoch} after batch {trainer.batch}, as asked")
            except (StopAsked, Interrupted):  # the latter between batches that are validated on
                self._save(trainer)
                raise

    def _keep(self, trainer: SavedTrainer, event: Any) -> Iterator[Any]:
        """Put the state on disk when it is time, then pass the event on."""
        if isinstance(event, BatchDone):
            if self.checkpoint.age_s >= self._settings.checkpoint_every_s:
                self._save(trainer)
            yield event
            return
        if event.is_best:
            # Named by its epoch, which the checkpoint holds, so that both are always of the same epoch.
            self.best = self.folder / f"best-{event.epoch:04d}.pt"
            state = trainer.graded_model.state_dict()
            self._best_weights = {name: value.to("cpu", copy=True) for name, value in state.items()}
        self._epoch_ended(trainer, event)
        self.history.append(self._row(event, self._clock_ms()))
        # Of epochs shorter than that, several are trained again after a crash, with the same metrics.
        if self.checkpoint.age_s >= min(self._settings.checkpoint_every_s, self.checkpoint.cost_s / CHECKPOINT_SHARE):
            self._save(trainer)
        yield from (Note(text) for text in event.notes)
        yield self.history[-1]

    def _save(self, trainer: SavedTrainer) -> None:
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
        rows: list[Any] = self.history
        return [dataclasses.asdict(row) for row in rows]

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

    def _mark_finished(self, found: Mapping[str, Any]) -> None:
        """Write the mark that says that all files are whole, and remove what a restart would have needed."""
        write_json(
            self.folder / FINISHED, {"history": self._plain_history(), **found, "data_digest": self.data_digest()}
        )
        self.checkpoint.path.unlink(missing_ok=True)
        for stale in self.folder.glob("best-*.pt"):
            stale.unlink()
