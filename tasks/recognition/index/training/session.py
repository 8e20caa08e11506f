"""Trains an embedding in a folder: resumes it, and leaves weights that an index is built with."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_pools.stopping import never
from tasks.base.errors import ConfigError, Interrupted, StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.recognition.index.models import new_embedder
from tasks.recognition.index.training.events import BatchDone, EpochDone, EpochMetrics, Event, epoch_from, history_frame
from tasks.recognition.index.training.losses import MarginHead
from tasks.recognition.index.training.trainer import Recogniser, Trainer
from tasks.recognition.index.views import Views, ViewSet, file_digests, joint_digest, read_view_set
from tasks.recognition.params import INDEX_FREE_TO_CHANGE, IndexParams
from tasks.run.checkpoint import Checkpoint, fingerprint_of, save_tensors
from tasks.run.resume_point import FINISHED
from tasks.training.optim import deterministic
from tasks.training.precision import Precision, choose_precision

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SHARE = 0.01  # of the time, at most, goes into checkpoints at the ends of epochs


class IndexSession:
    """One training of an embedding, from a data set of views to a folder with weights, configuration and history.

    Args:
        dataset: rendered views.
        folder: of this training alone; a checkpoint in it is gone on from.
        params: as the run has them.
        device: to train on.
        cache: folder for measurements, shared by all runs.
        clock_ms: Unix time in milliseconds.
        stop_asked: looked at after every batch trained; once it is true, the state goes to
            disk and `run` raises StopAsked.
    """

    def __init__(
        self,
        dataset: Path,
        folder: Path,
        params: IndexParams,
        device: torch.device,
        *,
        cache: Path,
        clock_ms: Callable[[], int],
        stop_asked: Callable[[], bool] = never,
    ) -> None:
        self.dataset, self.folder, self.params, self.device = dataset, folder, params, device
        self.cache, self._clock_ms, self._stop_asked = cache, clock_ms, stop_asked
        self.views = read_view_set(dataset)
        self.train, self.val = training_views(self.views), self.views.subset("val")
        self.history: list[EpochDone] = []
        self.best: Path | None = None
        self._best_weights: dict[str, torch.Tensor] | None = None  # not on disk yet: the next checkpoint takes them
        self.digests: list[str] = []  # of the views trained on, then of those chosen by
        self.checkpoint = Checkpoint(folder / CHECKPOINT, lambda: self._clock_ms() / 1000)

    @property
    def finished(self) -> bool:
        """Return whether the folder already holds the finished training."""
        return (self.folder / FINISHED).is_file()

    def load_finished(self) -> None:
        """Take the history of a training that was finished earlier from its folder."""
        rows = json.loads((self.folder / FINISHED).read_text())["history"]
        self.history = [epoch_from(row) for row in rows]

    def run(self) -> Iterator[Event]:
        """Train to the end, the state going to disk on the way; or take the features of a backbone as they are.

        Raises:
            ConfigError: the checkpoint belongs to other parameters or other data.
            DatasetError, WeightsError, TrainingError, StorageError: as their names say.
            StopAsked: `stop_asked` became true; a session in the same folder goes on after the last batch.
        """
        self._read_digests()
        torch.manual_seed(self.params.seed)
        if not self.params.trains:
            yield from self._take_features()
            return
        saved = self.checkpoint.load(self._fingerprint()) if self.checkpoint.path.is_file() else None
        self._remove_leftovers(saved["best_file"] if saved else None)
        precision, why = self._precision(saved)
        yield Note(why)
        trainer, config, notes = self._trainer(precision)
        if saved is not None:
            self._take_over(trainer, saved)
            notes = [f"goes on at epoch {trainer.epoch}, batch {trainer.batch}, from {self.checkpoint.path}"]
        for text in notes:
            yield Note(text)
        with deterministic(self.params.deterministic):
            try:
                for event in trainer.run(self.train, self.val, len(self.views.parts)):
                    yield from self._keep(trainer, event)
                    if self._stop_asked() and not trainer.done:  # at the end, finishing takes less time than stopping
                        raise StopAsked(f"stopped in epoch {trainer.epoch} after batch {trainer.batch}, as asked")
            except (StopAsked, Interrupted):  # the latter between batches that are validated on
                self._save(trainer)
                raise
        self._finish(trainer, config)

    def _read_digests(self) -> None:
        def look() -> None:
            if self._stop_asked():
                raise StopAsked("stopped while reading the views, as asked")

        self.digests = [digest for views in (self.train, self.val) for digest in file_digests(views, look)]

    def _take_features(self) -> Iterator[Event]:
        embedder, config, notes = new_embedder(self.params)
        for text in notes:
            yield Note(text)
        save_tensors(self.folder / "best.pt", embedder.state_dict())
        self._describe(config, "fp32")
        self._mark_finished({"stopped_early": False, "best_epoch": 0, "best_recall_1": None, "precision": "fp32"})

    def _take_over(self, trainer: Trainer, saved: dict[str, Any]) -> None:
        trainer.load_state_dict(saved["trainer"])
        # Sums depend, in their last bits, on how many threads share them.
        torch.set_num_threads(saved["threads"])
        self.history = [epoch_from(row) for row in saved["history"]]
        self.best = self.folder / saved["best_file"] if saved["best_file"] else None

    def _precision(self, saved: dict[str, Any] | None) -> tuple[Precision, str]:
        p = self.params
        if saved is None:
            return choose_precision(
                p.precision,
                self.device,
                lambda: self._model()[0].embedder,
                (p.batch_size, p.image_size),
                self.cache / "precision",
                f"embedding-{p.backbone}",
            )
        precision: Precision = saved["trainer"]["precision"]
        if precision == "fp16" and self.device.type == "cpu":
            raise ConfigError(f"the training in {self.folder} began in fp16, which needs a GPU: found device cpu")
        return precision, f"precision {precision}, as before"

    def _model(self) -> tuple[Recogniser, dict[str, Any], list[str]]:
        p = self.params
        embedder, config, notes = new_embedder(p)
        n_classes = int(self.train.labels.max()) + 1
        return Recogniser(embedder, MarginHead(p.dimension, n_classes, p.loss, p.margin, p.scale)), config, notes

    def _trainer(self, precision: Precision) -> tuple[Trainer, dict[str, Any], list[str]]:
        model, config, notes = self._model()
        # In a fork of the generator: copying the model for the moving average must not change what is drawn later.
        with torch.random.fork_rng(devices=[]):
            ema_copy = self._model()[0] if self.params.ema_decay > 0 else None
        return Trainer(model, self.params, self.device, precision, ema_copy=ema_copy), config, notes

    def _keep(self, trainer: Trainer, event: BatchDone | EpochMetrics) -> Iterator[Event]:
        """Put the state on disk when it is time, then pass the event on."""
        if isinstance(event, BatchDone):
            if self.checkpoint.age_s >= self.params.checkpoint_every_s:
                self._save(trainer)
            yield event
            return
        if event.is_best:
            # Named by its epoch, which the checkpoint holds, so that both are always of the same epoch.
            self.best = self.folder / f"best-{event.epoch:04d}.pt"
            state = trainer.graded.state_dict()
            self._best_weights = {name: value.to("cpu", copy=True) for name, value in state.items()}
        self.history.append(EpochDone(event, self._clock_ms()))
        # Of epochs shorter than that, several are trained again after a crash, with the same metrics.
        if self.checkpoint.age_s >= min(self.params.checkpoint_every_s, self.checkpoint.cost_s / CHECKPOINT_SHARE):
            self._save(trainer)
        for text in event.notes:
            yield Note(text)
        yield self.history[-1]

    def _save(self, trainer: Trainer) -> None:
        best = {self.best: self._best_weights} if self.best is not None and self._best_weights is not None else {}
        state = {
            "trainer": trainer.state_dict(),
            "history": [dataclasses.asdict(row) for row in self.history],
            "best_file": self.best.name if self.best else None,
            "threads": torch.get_num_threads(),
        }
        self.checkpoint.save(state, self._fingerprint(), before=best)
        self._best_weights = None
        for stale in set(self.folder.glob("best-*.pt")) - {self.best}:
            stale.unlink()

    def _remove_leftovers(self, best_file: str | None) -> None:
        """Remove what a killed attempt left: partial files, and weights that no checkpoint points to."""
        for pattern in (".*.pt.*", "best-*.pt"):
            for path in self.folder.glob(pattern):
                if path.name != best_file:
                    path.unlink(missing_ok=True)

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.params, INDEX_FREE_TO_CHANGE, self.data_digest())

    def data_digest(self) -> str:
        """Return one digest over the views trained on and chosen by, and what they show."""
        labels = np.concatenate([self.train.labels, self.val.labels])
        lines = [f"{digest} {label}" for digest, label in zip(self.digests, labels, strict=True)]
        return joint_digest([*self.views.names, *lines])

    def _finish(self, trainer: Trainer, config: dict[str, Any]) -> None:
        """Write the files people use, then the mark that says they are whole."""
        assert self.best is not None, "the first epoch is always the best so far"
        if self._best_weights is not None:
            save_tensors(self.folder / "best.pt", self._best_weights)
        elif self.best.is_file():  # else a restart after the renaming
            os.replace(self.best, self.folder / "best.pt")
        self._describe(config, trainer.precision)
        write_atomic(self.folder / "history.csv", history_frame(self.history).to_csv(index=False).encode())
        found = {"stopped_early": trainer.stopped, "best_epoch": trainer.best_epoch, "best_recall_1": trainer.best[0]}
        self._mark_finished({**found, "precision": trainer.precision})
        for stale in self.folder.glob("best-*.pt"):
            stale.unlink()

    def _describe(self, config: dict[str, Any], precision: Precision) -> None:
        more = {"image_size": self.params.image_size, "parts": self.views.parts, "precision": precision}
        write_json(self.folder / "config.json", {**config, **more})
        # Trained on, or used to choose the weights: a later index is compared with this one on other files.
        write_json(self.folder / "seen_digests.json", sorted(set(self.digests)))

    def _mark_finished(self, found: dict[str, Any]) -> None:
        history = [dataclasses.asdict(row) for row in self.history]
        write_json(self.folder / FINISHED, {"history": history, **found, "data_digest": self.data_digest()})
        self.checkpoint.path.unlink(missing_ok=True)


def training_views(views: ViewSet) -> Views:
    """Return what is trained on: the views of the parts, and those of the distractors to fit on as further classes."""
    parts, others = views.subset("train"), views.distractor_views("fit")
    shapes, numbers = np.unique(others.labels, return_inverse=True)
    labels = np.concatenate([parts.labels, len(views.parts) + np.arange(len(shapes))[numbers]])
    rotations = np.concatenate([parts.rotations, others.rotations])
    return Views(views.root, [*parts.paths, *others.paths], labels.astype(np.int64), rotations)
