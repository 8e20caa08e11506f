"""Trains an embedding in a folder: resumes it, and leaves weights that an index is built with."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_pools.stopping import never
from tasks.base.errors import StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.recognition.index.models import new_embedder
from tasks.recognition.index.training.events import EpochDone, EpochMetrics, Event, epoch_from, history_frame
from tasks.recognition.index.training.losses import MarginHead
from tasks.recognition.index.training.trainer import Recogniser, Trainer
from tasks.recognition.index.views import Views, ViewSet, file_digests, joint_digest, read_view_set
from tasks.recognition.params import INDEX_FREE_TO_CHANGE, IndexParams
from tasks.run.checkpoint import fingerprint_of, save_tensors
from tasks.training.precision import Precision, choose_precision
from tasks.training.session import FolderSession

CHECKPOINT = "checkpoint.pt"


class IndexSession(FolderSession[EpochDone]):
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
        super().__init__(folder, CHECKPOINT, params, device, clock_ms=clock_ms, stop_asked=stop_asked)
        self.dataset, self.params, self.cache = dataset, params, cache
        self.views = read_view_set(dataset)
        self.train, self.val = training_views(self.views), self.views.subset("val")
        self.digests: list[str] = []  # of the views trained on, then of those chosen by

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
            notes = [self._take_over(trainer, saved).text]
        for text in notes:
            yield Note(text)
        yield from self._kept(trainer, trainer.run(self.train, self.val, len(self.views.parts)))
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
        return self._saved_precision(saved)

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

    def _row(self, metrics: EpochMetrics, timestamp_ms: int) -> EpochDone:
        return EpochDone(metrics, timestamp_ms)

    def _row_from(self, values: Mapping[str, Any]) -> EpochDone:
        return epoch_from(values)

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.params, INDEX_FREE_TO_CHANGE, self.data_digest())

    def data_digest(self) -> str:
        """Return one digest over the views trained on and chosen by, and what they show."""
        labels = np.concatenate([self.train.labels, self.val.labels])
        lines = [f"{digest} {label}" for digest, label in zip(self.digests, labels, strict=True)]
        return joint_digest([*self.views.names, *lines])

    def _finish(self, trainer: Trainer, config: dict[str, Any]) -> None:
        """Write the files people use, then the mark that says they are whole."""
        self._put_best()
        self._describe(config, trainer.precision)
        write_atomic(self.folder / "history.csv", history_frame(self.history).to_csv(index=False).encode())
        found = {"stopped_early": trainer.stopped, "best_epoch": trainer.best_epoch, "best_recall_1": trainer.best[0]}
        self._mark_finished({**found, "precision": trainer.precision})

    def _describe(self, config: dict[str, Any], precision: Precision) -> None:
        more = {"image_size": self.params.image_size, "parts": self.views.parts, "precision": precision}
        write_json(self.folder / "config.json", {**config, **more})
        # Trained on, or used to choose the weights: a later index is compared with this one on other files.
        write_json(self.folder / "seen_digests.json", sorted(set(self.digests)))


def training_views(views: ViewSet) -> Views:
    """Return what is trained on: the views of the parts, and those of the distractors to fit on as further classes."""
    parts, others = views.subset("train"), views.distractor_views("fit")
    shapes, numbers = np.unique(others.labels, return_inverse=True)
    labels = np.concatenate([parts.labels, len(views.parts) + np.arange(len(shapes))[numbers]])
    rotations = np.concatenate([parts.rotations, others.rotations])
    return Views(views.root, [*parts.paths, *others.paths], labels.astype(np.int64), rotations)
