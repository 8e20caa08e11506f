"""Runs a training in its folder: resumes it, and leaves weights that anyone can load."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpu_pools.stopping import never
from tasks.base.errors import ConfigError, StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.samples import check_num_classes, order_classes, read_classes, read_subset
from tasks.classification.data.subsets import LoadedSubset, digest_of, load_subsets, reading
from tasks.classification.models import build_model, load_weights, takes_one_image
from tasks.classification.params import FREE_TO_CHANGE, TrainParams
from tasks.classification.resume_point import CHECKPOINT
from tasks.classification.training.events import (
    EpochDone,
    EpochMetrics,
    Event,
    FilesRead,
    epoch_from,
    history_frame,
)
from tasks.classification.training.train import Trainer
from tasks.run.checkpoint import fingerprint_of, save_tensors
from tasks.training.batches import MEAN, STD, Batches
from tasks.training.precision import Precision, choose_precision
from tasks.training.session import FolderSession, SavedTrainer
from tasks.training.state_dicts import pretrained_state, read_state_dict


class TrainingSession(FolderSession[EpochDone]):
    """One training, from a split dataset to a folder with weights, configuration and history.

    Args:
        dataset: holds train/<class>/<image> and val/<class>/<image>.
        folder: of this training alone; a checkpoint in it is gone on from.
        params: as the run has them.
        device: to train on.
        cache: folder for shrunk images and measurements, shared by all runs.
        clock_ms: Unix time in milliseconds.
        stop_asked: looked at after every batch trained; once it is true, the state goes to
            disk and `run` raises StopAsked.
    """

    LEFTOVERS = (*FolderSession.LEFTOVERS, "epochs/.*.pt.*")

    def __init__(
        self,
        dataset: Path,
        folder: Path,
        params: TrainParams,
        device: torch.device,
        *,
        cache: Path,
        clock_ms: Callable[[], int],
        stop_asked: Callable[[], bool] = never,
    ) -> None:
        super().__init__(folder, CHECKPOINT, params, device, clock_ms=clock_ms, stop_asked=stop_asked)
        self.dataset, self.params, self.cache = dataset, params, cache
        self.classes = order_classes(read_classes(dataset), params.class_names, dataset)
        check_num_classes(params.num_classes, self.classes, dataset)
        self.parts: dict[str, LoadedSubset] = {}
        self._digest: str | None = None

    def _check_batches(self, n_images: int) -> None:
        """Refuse a batch of one image where batch norm would have one value per channel, before any work is done."""
        p = self.params
        alone = p.batch_size == 1 or n_images == 1
        if alone and not takes_one_image(p.model, len(self.classes), p.image_size):
            raise ConfigError(
                f"{p.model} cannot be trained on batches of one image of image_size {p.image_size}: batch norm finds "
                f"one value per channel, need at least 2; found batch_size {p.batch_size} and {n_images} training "
                f"image(s): take a batch_size of 2 or more, or a larger image_size"
            )

    def load_subsets(self, names: Sequence[str]) -> Iterator[Event]:
        """Find the images of some parts and choose where they are kept; they are read when they are asked for."""
        samples = {name: read_subset(self.dataset, name, self.classes) for name in names}
        self._check_batches(len(samples["train"].paths))
        cache = ResizeCache(self.cache / "resized", self.params.image_size)
        self.parts, why = load_subsets(samples, cache, self.params.num_epochs)
        yield Note(why)

    def _looked(self, progress: Iterator[FilesRead]) -> Iterator[Event]:
        for event in progress:
            yield event
            if self._stop_asked():
                raise StopAsked(f"stopped while reading the images of {event.part}, as asked")

    @property
    def digests_known(self) -> bool:
        """Return whether the content of all images is known, so that their digests cost nothing."""
        return bool(self.parts) and all(part.pictures.digests_known for part in self.parts.values())

    def run(self) -> Iterator[Event]:
        """Train to the end, the state going to disk on the way.

        Raises:
            ConfigError: the checkpoint belongs to other parameters or other data.
            DatasetError, WeightsError, TrainingError, StorageError: as their names say.
            StopAsked: `stop_asked` became true; a session in the same folder goes on after the last batch.
        """
        yield from self.load_subsets(("train", "val"))
        saved = None
        if self.checkpoint.path.is_file():
            yield from self._looked(reading(self.parts, self.params.n_workers))
            saved = self.checkpoint.load(self._fingerprint())
        torch.manual_seed(self.params.seed)
        self._remove_leftovers(saved["best_file"] if saved else None)
        precision, why = self._precision(saved)
        yield Note(why)
        trainer, notes = self._trainer(precision, fresh=saved is None)
        for text in notes:
            yield Note(text)
        if saved is not None:
            yield self._take_over(trainer, saved)
        train = self._batches("train", shuffle=self.params.shuffle, seed=self.params.seed)
        val = self._batches("val", join_last=False)
        yield from self._kept(trainer, trainer.run(train, val))
        self._finish(trainer)

    def _batches(self, part: str, **options: Any) -> Batches:
        p = self.params
        pin = self.device.type == "cuda"
        return self.parts[part].batches(p.batch_size, n_workers=p.n_workers, pin=pin, **options)

    def _precision(self, saved: dict[str, Any] | None) -> tuple[Precision, str]:
        if saved is not None:
            return self._saved_precision(saved)
        p = self.params
        return choose_precision(
            p.precision,
            self.device,
            self._build,
            (p.batch_size, p.image_size),
            self.cache / "precision",
            p.model,
        )

    def _build(self) -> nn.Module:
        return build_model(self.params.model, len(self.classes), self.params.image_size)

    def _trainer(self, precision: Precision, *, fresh: bool) -> tuple[Trainer, list[str]]:
        p = self.params
        model = self._build()
        notes: list[str] = []
        if fresh and p.weight_path is not None:
            notes += load_weights(model, p.model, read_state_dict(p.weight_path), str(p.weight_path))
            notes.append(f"starts from {p.weight_path}")
        elif fresh and p.pretrained:
            state, name = pretrained_state(p.model)
            notes += load_weights(model, p.model, state, name)
            notes.append(f"starts from {name}")
        # In a fork of the generator: copying the model for the moving average must not change what is drawn later.
        with torch.random.fork_rng(devices=[]):
            ema_copy = self._build() if p.ema_decay > 0 else None
        return Trainer(model, len(self.classes), p, self.device, precision, ema_copy=ema_copy), notes

    def _row(self, metrics: EpochMetrics, timestamp_ms: int) -> EpochDone:
        return EpochDone(metrics, timestamp_ms)

    def _row_from(self, values: Mapping[str, Any]) -> EpochDone:
        return epoch_from(values)

    def _epoch_ended(self, trainer: SavedTrainer, metrics: EpochMetrics) -> None:
        if self.params.keep_every_epoch:
            save_tensors(self.folder / "epochs" / f"epoch-{metrics.epoch:04d}.pt", trainer.graded_model.state_dict())

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.params, FREE_TO_CHANGE, self.data_digest())

    def data_digest(self) -> str:
        """Return one digest over the images and labels trained and validated on."""
        if self._digest is None:
            self._digest = digest_of({name: self.parts[name] for name in ("train", "val")})
        return self._digest

    def _finish(self, trainer: Trainer) -> None:
        """Write the files people use, then the mark that says they are whole."""
        self._put_best()
        save_tensors(self.folder / "last.pt", trainer.graded_model.state_dict())
        found = {"precision": trainer.precision, "temperature": trainer.best_temperature}
        write_json(self.folder / "config.json", {**self.model_config(), **found})
        # Trained on, or used to choose the weights: a later model is compared with this one on other files.
        seen = {digest for part in self.parts.values() for digest in part.digests}
        write_json(self.folder / "seen_digests.json", sorted(seen))
        write_atomic(self.folder / "history.csv", history_frame(self.history).to_csv(index=False).encode())
        self._mark_finished(
            {
                "stopped_early": trainer.stopped,
                "best_epoch": trainer.best_epoch,
                "best_acc": trainer.best_acc,
                "precision": trainer.precision,
            }
        )

    def model_config(self) -> dict[str, Any]:
        """Return what is needed to use the weights: architecture, classes and how to prepare an image."""
        return {
            "model": self.params.model,
            "classes": self.classes,
            "image_size": self.params.image_size,
            "mean": list(MEAN),
            "std": list(STD),
        }
