"""Runs a training in its folder: resumes it, and leaves weights that anyone can load."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpu_pools.stopping import never
from tasks.base.errors import ConfigError, Interrupted, StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.samples import check_num_classes, order_classes, read_classes, read_subset
from tasks.classification.data.subsets import LoadedSubset, digest_of, load_subsets, reading
from tasks.classification.models import build_model, load_weights, takes_one_image
from tasks.classification.params import FREE_TO_CHANGE, TrainParams
from tasks.classification.resume_point import CHECKPOINT
from tasks.classification.training.events import (
    BatchDone,
    EpochDone,
    EpochMetrics,
    Event,
    FilesRead,
    epoch_from,
    history_frame,
)
from tasks.classification.training.train import Trainer
from tasks.run.checkpoint import Checkpoint, fingerprint_of, save_tensors
from tasks.run.resume_point import FINISHED
from tasks.training.batches import MEAN, STD, Batches
from tasks.training.optim import deterministic
from tasks.training.precision import Precision, choose_precision
from tasks.training.state_dicts import pretrained_state, read_state_dict

CHECKPOINT_SHARE = 0.01  # of the time, at most, goes into checkpoints at the ends of epochs


class TrainingSession:
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
        self.dataset, self.folder, self.params, self.device = dataset, folder, params, device
        self.cache, self._clock_ms, self._stop_asked = cache, clock_ms, stop_asked
        self.classes = order_classes(read_classes(dataset), params.class_names, dataset)
        check_num_classes(params.num_classes, self.classes, dataset)
        self.history: list[EpochDone] = []
        self.parts: dict[str, LoadedSubset] = {}
        self.best: Path | None = None
        self._best_weights: dict[str, torch.Tensor] | None = None  # not on disk yet: the next checkpoint takes them
        self._digest: str | None = None
        self.checkpoint = Checkpoint(folder / CHECKPOINT, lambda: self._clock_ms() / 1000)

    @property
    def finished(self) -> bool:
        """Return whether the folder already holds the finished training."""
        return (self.folder / FINISHED).is_file()

    def load_finished(self) -> None:
        """Take the history of a training that was finished earlier from its folder."""
        rows = json.loads((self.folder / FINISHED).read_text())["history"]
        self.history = [epoch_from(row) for row in rows]

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
            trainer.load_state_dict(saved["trainer"])
            # Sums depend, in their last bits, on how many threads share them.
            torch.set_num_threads(saved["threads"])
            self.history = [epoch_from(row) for row in saved["history"]]
            self.best = self.folder / saved["best_file"] if saved["best_file"] else None
            yield Note(f"goes on at epoch {trainer.epoch}, batch {trainer.batch}, from {self.checkpoint.path}")
        train = self._batches("train", shuffle=self.params.shuffle, seed=self.params.seed)
        val = self._batches("val", join_last=False)
        with deterministic(self.params.deterministic):
            try:
                for event in trainer.run(train, val):
                    yield from self._keep(trainer, event)
                    if self._stop_asked() and not trainer.done:  # at the end, finishing takes less time than stopping
                        raise StopAsked(f"stopped in epoch {trainer.epoch} after batch {trainer.batch}, as asked")
            except (StopAsked, Interrupted):  # the latter between batches that are validated on
                self._save(trainer)
                raise
        self._finish(trainer)

    def _batches(self, part: str, **options: Any) -> Batches:
        p = self.params
        pin = self.device.type == "cuda"
        return self.parts[part].batches(p.batch_size, n_workers=p.n_workers, pin=pin, **options)

    def _precision(self, saved: dict[str, Any] | None) -> tuple[Precision, str]:
        if saved is not None:
            precision: Precision = saved["trainer"]["precision"]
            if precision == "fp16" and self.device.type == "cpu":
                raise ConfigError(f"the training in {self.folder} began in fp16, which needs a GPU: found device cpu")
            return precision, f"precision {precision}, as before"
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
            state = trainer.graded_model.state_dict()
            self._best_weights = {name: value.to("cpu", copy=True) for name, value in state.items()}
        if self.params.keep_every_epoch:
            save_tensors(self.folder / "epochs" / f"epoch-{event.epoch:04d}.pt", trainer.graded_model.state_dict())
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
        for pattern in (".*.pt.*", "epochs/.*.pt.*", "best-*.pt"):
            for path in self.folder.glob(pattern):
                if path.name != best_file:
                    path.unlink(missing_ok=True)

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.params, FREE_TO_CHANGE, self.data_digest())

    def data_digest(self) -> str:
        """Return one digest over the images and labels trained and validated on."""
        if self._digest is None:
            self._digest = digest_of({name: self.parts[name] for name in ("train", "val")})
        return self._digest

    def _finish(self, trainer: Trainer) -> None:
        """Write the files people use, then the mark that says they are whole."""
        assert self.best is not None, "the first epoch is always the best so far"
        if self._best_weights is not None:
            save_tensors(self.folder / "best.pt", self._best_weights)
        elif self.best.is_file():  # else a restart after the renaming
            os.replace(self.best, self.folder / "best.pt")
        save_tensors(self.folder / "last.pt", trainer.graded_model.state_dict())
        found = {"precision": trainer.precision, "temperature": trainer.best_temperature}
        write_json(self.folder / "config.json", {**self.model_config(), **found})
        # Trained on, or used to choose the weights: a later model is compared with this one on other files.
        seen = {digest for part in self.parts.values() for digest in part.digests}
        write_json(self.folder / "seen_digests.json", sorted(seen))
        write_atomic(self.folder / "history.csv", history_frame(self.history).to_csv(index=False).encode())
        write_json(
            self.folder / FINISHED,
            {
                "history": [dataclasses.asdict(row) for row in self.history],
                "stopped_early": trainer.stopped,
                "best_epoch": trainer.best_epoch,
                "best_acc": trainer.best_acc,
                "data_digest": self.data_digest(),
                "precision": trainer.precision,
            },
        )
        self.checkpoint.path.unlink(missing_ok=True)
        for stale in self.folder.glob("best-*.pt"):
            stale.unlink()

    def model_config(self) -> dict[str, Any]:
        """Return what is needed to use the weights: architecture, classes and how to prepare an image."""
        return {
            "model": self.params.model,
            "classes": self.classes,
            "image_size": self.params.image_size,
            "mean": list(MEAN),
            "std": list(STD),
        }
