"""Runs the training of a detector in its folder: resumes it, and leaves weights that anyone can load."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu_pools.stopping import never
from tasks.base.errors import ConfigError, Interrupted, StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.recognition.detector.networks import Detector, build
from tasks.recognition.detector.training.events import (
    BatchDone,
    EpochDone,
    EpochMetrics,
    Event,
    FilesRead,
    epoch_from,
    history_frame,
)
from tasks.recognition.detector.training.scenes import Scenes, fits_memory, joint_digest
from tasks.recognition.detector.training.sources import read_parts, real, rendered
from tasks.recognition.detector.training.trainer import Trainer
from tasks.recognition.detector.weights import model_config, start_weights
from tasks.recognition.params import DETECTOR_FREE_TO_CHANGE, DetectorParams
from tasks.run.checkpoint import Checkpoint, fingerprint_of, save_tensors
from tasks.run.resume_point import FINISHED
from tasks.training.optim import deterministic
from tasks.training.precision import Precision, choose_precision

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SHARE = 0.01  # of the time, at most, goes into checkpoints at the ends of epochs
_TIMED_IMAGES = 8  # of a batch on which number formats are compared


class DetectorSession:
    """One training, from a rendered data set to a folder with weights, configuration and history.

    Args:
        dataset: holds parts.json and scenes/{train,val}.
        folder: of this training alone; a checkpoint in it is gone on from.
        params: as the run has them.
        device: to train on.
        cache: folder for measurements, shared by all runs.
        clock_ms: Unix time in milliseconds.
        stop_asked: looked at after every batch trained; once it is true, the state goes to disk and `run` raises
            StopAsked.

    Raises:
        DatasetError: the data set has no parts.
        ConfigError: the folder of a model of transformers is none.
    """

    def __init__(
        self,
        dataset: Path,
        folder: Path,
        params: DetectorParams,
        device: torch.device,
        *,
        cache: Path,
        clock_ms: Callable[[], int],
        stop_asked: Callable[[], bool] = never,
    ) -> None:
        self.dataset, self.folder, self.params, self.device = dataset, folder, params, device
        self.cache, self._clock_ms, self._stop_asked = cache, clock_ms, stop_asked
        self.classes = read_parts(dataset)
        self.config = model_config(params, self.classes)
        self.history: list[EpochDone] = []
        self.scenes: dict[str, Scenes] = {}
        self.best: Path | None = None
        self._best_weights: dict[str, Tensor] | None = None  # not on disk yet: the next checkpoint takes them
        self.checkpoint = Checkpoint(folder / CHECKPOINT, lambda: self._clock_ms() / 1000)

    @property
    def finished(self) -> bool:
        """Return whether the folder already holds the finished training."""
        return (self.folder / FINISHED).is_file()

    def load_finished(self) -> None:
        """Take the history of a training that was finished earlier from its folder."""
        rows = json.loads((self.folder / FINISHED).read_text())["history"]
        self.history = [epoch_from(row) for row in rows]

    def load_scenes(self) -> Iterator[Event]:
        """Find the scenes to train and validate on, and look at every file.

        Raises:
            DatasetError, ImageError: they cannot be used.
        """
        images = {"train": rendered(self.dataset, "train", self.classes)}
        images["val"] = rendered(self.dataset, "val", self.classes)
        photographs = real(self.params, self.classes)
        if photographs is not None:
            yield from (Note(text) for text in photographs.notes)
            if self.params.real_use == "train":
                more = photographs.of("train")
                images["train"] += more
                yield Note(f"{len(more)} photographs are trained on, from {self.params.real_images}")
        size = self.params.image_size
        keep = fits_memory(sum(len(found) for found in images.values()), size)
        for name, found in images.items():
            self.scenes[name] = scenes = Scenes(found, size, keep=keep)
            for done in scenes.look(self.params.n_workers):
                yield FilesRead(name, done, len(scenes))
        if not keep:
            yield Note("the decoded images take more than a quarter of the free memory: they are decoded each time")

    def run(self) -> Iterator[Event]:
        """Train to the end, the state going to disk on the way.

        Raises:
            ConfigError: the checkpoint belongs to other parameters or other data.
            DatasetError, WeightsError, TrainingError, StorageError: as their names say.
            StopAsked: `stop_asked` became true; a session in the same folder goes on after the last batch.
        """
        for event in self.load_scenes():
            yield event
            if self._stop_asked():
                raise StopAsked("stopped while looking at the images, as asked")
        saved = self.checkpoint.load(self._fingerprint()) if self.checkpoint.path.is_file() else None
        torch.manual_seed(self.params.seed)
        self._remove_leftovers(saved["best_file"] if saved else None)
        precision, why = self._precision(saved)
        yield Note(why)
        trainer, notes = self._trainer(precision, fresh=saved is None)
        yield from (Note(text) for text in notes)
        if saved is not None:
            self._take_over(trainer, saved)
            yield Note(f"goes on at epoch {trainer.epoch}, batch {trainer.batch}, from {self.checkpoint.path}")
        with deterministic(self.params.deterministic):
            try:
                for done in trainer.run(self.scenes["train"], self.scenes["val"]):
                    yield from self._keep(trainer, done)
                    if self._stop_asked() and not trainer.done:  # at the end, finishing takes less time than stopping
                        raise StopAsked(f"stopped in epoch {trainer.epoch} after batch {trainer.batch}, as asked")
            except (StopAsked, Interrupted):  # the latter between batches that are validated on
                self._save(trainer)
                raise
        self._finish(trainer)

    def _take_over(self, trainer: Trainer, saved: dict[str, Any]) -> None:
        trainer.load_state_dict(saved["trainer"])
        # Sums depend, in their last bits, on how many threads share them.
        torch.set_num_threads(saved["threads"])
        self.history = [epoch_from(row) for row in saved["history"]]
        self.best = self.folder / saved["best_file"] if saved["best_file"] else None

    def _precision(self, saved: dict[str, Any] | None) -> tuple[Precision, str]:
        if saved is not None:
            precision: Precision = saved["trainer"]["precision"]
            if precision == "fp16" and self.device.type == "cpu":
                raise ConfigError(f"the training in {self.folder} began in fp16, which needs a GPU: found device cpu")
            return precision, f"precision {precision}, as before"
        p = self.params
        batch = min(p.batch_size, _TIMED_IMAGES), p.image_size
        build_timed: Callable[[], nn.Module] = lambda: _Timed(build(self.config))  # noqa: E731 - a thunk, not a function
        return choose_precision(p.precision, self.device, build_timed, batch, self.cache / "precision", p.network)

    def _trainer(self, precision: Precision, *, fresh: bool) -> tuple[Trainer, list[str]]:
        model = build(self.config)
        notes = start_weights(model, self.params) if fresh else []
        # In a fork of the generator: copying the model for the moving average must not change what is drawn later.
        with torch.random.fork_rng(devices=[]):
            ema_copy = build(self.config) if self.params.ema_decay > 0 else None
        return Trainer(model, self.classes, self.params, self.device, precision, ema_copy=ema_copy), notes

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
        self.history.append(EpochDone(event, self._clock_ms()))
        # Of epochs shorter than that, several are trained again after a crash, with the same metrics.
        if self.checkpoint.age_s >= min(self.params.checkpoint_every_s, self.checkpoint.cost_s / CHECKPOINT_SHARE):
            self._save(trainer)
        yield from (Note(text) for text in event.notes)
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
        return fingerprint_of(self.params, DETECTOR_FREE_TO_CHANGE, self.data_digest())

    def data_digest(self) -> str:
        """Return one digest over the images and boxes trained and validated on."""
        return joint_digest(self.scenes)

    def _finish(self, trainer: Trainer) -> None:
        """Write the files people use, then the mark that says they are whole."""
        assert self.best is not None, "the first epoch is always the best so far"
        if self._best_weights is not None:
            save_tensors(self.folder / "best.pt", self._best_weights)
        elif self.best.is_file():  # else a restart after the renaming
            os.replace(self.best, self.folder / "best.pt")
        save_tensors(self.folder / "last.pt", trainer.graded_model.state_dict())
        write_json(self.folder / "config.json", {**self.config, "precision": trainer.number_format})
        # Trained on, or used to choose the weights: a later model is compared with this one on other files.
        seen = {digest for scenes in self.scenes.values() for digest in scenes.digests}
        write_json(self.folder / "seen_digests.json", sorted(seen))
        write_atomic(self.folder / "history.csv", history_frame(self.history).to_csv(index=False).encode())
        write_json(
            self.folder / FINISHED,
            {
                "history": [dataclasses.asdict(row) for row in self.history],
                "stopped_early": trainer.stopped,
                "best_epoch": trainer.best_epoch,
                "best_map": trainer.best_map,
                "data_digest": self.data_digest(),
                "precision": trainer.number_format,
            },
        )
        self.checkpoint.path.unlink(missing_ok=True)
        for stale in self.folder.glob("best-*.pt"):
            stale.unlink()


class _Timed(nn.Module):
    """A detector as the comparison of number formats takes a model: images in, two numbers for each out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        """Take (B, 3, S, S), give (B, 2), by way of the loss of one box an image."""
        side = images.shape[-1]
        boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6]]) * side
        targets = [{"boxes": boxes, "labels": torch.zeros(1, dtype=torch.int64)} for _ in images]
        losses = self.detector.losses(images, targets)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        return torch.stack([total, torch.zeros_like(total)]).expand(len(images), 2)
