"""Runs the training of a detector in its folder: resumes it, and leaves weights that anyone can load."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu_pools.stopping import never
from tasks.base.errors import StopAsked
from tasks.base.progress import Note
from tasks.base.workspace import write_atomic, write_json
from tasks.recognition.detector.networks import Detector, build
from tasks.recognition.detector.training.events import (
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
from tasks.run.checkpoint import fingerprint_of, save_tensors
from tasks.training.precision import Precision, choose_precision
from tasks.training.session import FolderSession

CHECKPOINT = "checkpoint.pt"
_TIMED_IMAGES = 8  # of a batch on which number formats are compared


class DetectorSession(FolderSession[EpochDone]):
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
        super().__init__(folder, CHECKPOINT, params, device, clock_ms=clock_ms, stop_asked=stop_asked)
        self.dataset, self.params, self.cache = dataset, params, cache
        self.classes = read_parts(dataset)
        self.config = model_config(params, self.classes)
        self.scenes: dict[str, Scenes] = {}

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
            yield self._take_over(trainer, saved)
        yield from self._kept(trainer, trainer.run(self.scenes["train"], self.scenes["val"]))
        self._finish(trainer)

    def _precision(self, saved: dict[str, Any] | None) -> tuple[Precision, str]:
        if saved is not None:
            return self._saved_precision(saved)
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

    def _row(self, metrics: EpochMetrics, timestamp_ms: int) -> EpochDone:
        return EpochDone(metrics, timestamp_ms)

    def _row_from(self, values: Mapping[str, Any]) -> EpochDone:
        return epoch_from(values)

    def _fingerprint(self) -> dict[str, str]:
        return fingerprint_of(self.params, DETECTOR_FREE_TO_CHANGE, self.data_digest())

    def data_digest(self) -> str:
        """Return one digest over the images and boxes trained and validated on."""
        return joint_digest(self.scenes)

    def _finish(self, trainer: Trainer) -> None:
        """Write the files people use, then the mark that says they are whole."""
        self._put_best()
        save_tensors(self.folder / "last.pt", trainer.graded_model.state_dict())
        write_json(self.folder / "config.json", {**self.config, "precision": trainer.number_format})
        # Trained on, or used to choose the weights: a later model is compared with this one on other files.
        seen = {digest for scenes in self.scenes.values() for digest in scenes.digests}
        write_json(self.folder / "seen_digests.json", sorted(seen))
        write_atomic(self.folder / "history.csv", history_frame(self.history).to_csv(index=False).encode())
        self._mark_finished(
            {
                "stopped_early": trainer.stopped,
                "best_epoch": trainer.best_epoch,
                "best_map": trainer.best_map,
                "precision": trainer.number_format,
            }
        )


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
