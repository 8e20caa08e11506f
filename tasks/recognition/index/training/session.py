"""Trains an embedding in a folder: resumes it, and leaves weights that an index is built with."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from tasks.base.errors import StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_json
from tasks.recognition.index.models import new_embedder
from tasks.recognition.index.training.events import EpochMetrics, Event
from tasks.recognition.index.training.losses import MarginHead
from tasks.recognition.index.training.trainer import Recogniser, Trainer
from tasks.recognition.index.views import Views, ViewSet, file_digests, joint_digest, read_view_set
from tasks.recognition.params import INDEX_FREE_TO_CHANGE, IndexParams
from tasks.run.checkpoint import save_tensors
from tasks.training.events import BatchDone
from tasks.training.optim import copy_to_average
from tasks.training.precision import Precision, choose_precision
from tasks.training.session import FolderSession


class IndexSession(FolderSession[IndexParams, Trainer, EpochMetrics]):
    """One training of an embedding, from a data set of views to a folder with weights, configuration and history.

    The data set holds rendered views.
    """

    METRICS = EpochMetrics
    FREE_TO_CHANGE = INDEX_FREE_TO_CHANGE

    def _open_dataset(self) -> None:
        self.views = read_view_set(self.dataset)
        self.train, self.val = training_views(self.views), self.views.subset("val")
        self.digests: list[str] = []  # of the views trained on, then of those chosen by
        self._config: dict[str, Any] = {}  # of the embedder that is trained

    def _read_data(self) -> Iterator[Event]:
        def look() -> None:
            if self._stop_asked():
                raise StopAsked("stopped while reading the views, as asked")

        self.digests = [digest for views in (self.train, self.val) for digest in file_digests(views, look)]
        return iter(())

    def find_data(self) -> None:
        """Nothing is left to look for: each view is read when it is asked for."""

    def _train(self) -> Iterator[Event]:
        return super()._train() if self.params.trains else self._take_features()

    def _events(self, trainer: Trainer) -> Iterator[BatchDone | EpochMetrics]:
        return trainer.run(self.train, self.val, len(self.views.parts))

    def _take_features(self) -> Iterator[Event]:
        torch.manual_seed(self.params.seed)
        embedder, config, notes = new_embedder(self.params)
        yield from (Note(text) for text in notes)
        save_tensors(self.folder / "best.pt", embedder.state_dict())
        self._describe(config, "fp32")
        self._mark_finished({"stopped_early": False, "best_epoch": 0, "best_recall_1": None, "precision": "fp32"})

    def _new_precision(self) -> tuple[Precision, str]:
        p = self.params
        build: Callable[[], nn.Module] = lambda: self._model()[0].embedder  # noqa: E731 - a thunk, not a function
        size, name = (p.batch_size, p.image_size), f"embedding-{p.backbone}"
        return choose_precision(p.precision, self.device, build, size, self.cache / "precision", name)

    def _model(self) -> tuple[Recogniser, dict[str, Any], list[str]]:
        p = self.params
        embedder, config, notes = new_embedder(p)
        n_classes = int(self.train.labels.max()) + 1
        return Recogniser(embedder, MarginHead(p.dimension, n_classes, p.loss, p.margin, p.scale)), config, notes

    def _trainer(self, precision: Precision, *, fresh: bool) -> tuple[Trainer, list[str]]:
        model, self._config, notes = self._model()
        ema_copy = copy_to_average(lambda: self._model()[0], self.params.ema_decay)
        trainer = Trainer(model, self.params, self.device, precision, ema_copy=ema_copy)
        return trainer, notes if fresh else []

    def data_digest(self) -> str:
        """Return one digest over the views trained on and chosen by, and what they show."""
        labels = np.concatenate([self.train.labels, self.val.labels])
        lines = [f"{digest} {label}" for digest, label in zip(self.digests, labels, strict=True)]
        return joint_digest([*self.views.names, *lines])

    def _finish(self, trainer: Trainer) -> None:
        self._put_best()
        self._describe(self._config, trainer.precision)
        self._write_history()
        self._mark_trained(trainer, "best_recall_1")

    def _describe(self, config: dict[str, Any], precision: Precision) -> None:
        more = {"image_size": self.params.image_size, "parts": self.views.parts, "precision": precision}
        write_json(self.folder / "config.json", {**config, **more})
        self._write_seen(self.digests)


def training_views(views: ViewSet) -> Views:
    """Return what is trained on: the views of the parts, and those of the distractors to fit on as further classes."""
    parts, others = views.subset("train"), views.distractor_views("fit")
    shapes, numbers = np.unique(others.labels, return_inverse=True)
    labels = np.concatenate([parts.labels, len(views.parts) + np.arange(len(shapes))[numbers]])
    rotations = np.concatenate([parts.rotations, others.rotations])
    return Views(views.root, [*parts.paths, *others.paths], labels.astype(np.int64), rotations)
