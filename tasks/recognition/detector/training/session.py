"""Runs the training of a detector in its folder: resumes it, and leaves weights that anyone can load."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tasks.base.errors import StopAsked
from tasks.base.progress import Note, Progress
from tasks.base.workspace import write_json
from tasks.recognition.detector.networks import Detector, build
from tasks.recognition.detector.training.events import EpochMetrics, Event
from tasks.recognition.detector.training.scenes import Scenes, fits_memory, joint_digest
from tasks.recognition.detector.training.sources import read_parts, real, rendered
from tasks.recognition.detector.training.trainer import Trainer
from tasks.recognition.detector.weights import model_config, start_weights
from tasks.recognition.params import DETECTOR_FREE_TO_CHANGE, DetectorParams
from tasks.run.checkpoint import save_tensors
from tasks.training.events import BatchDone, columns_of
from tasks.training.optim import copy_to_average
from tasks.training.precision import Precision, choose_precision
from tasks.training.session import FolderSession

_TIMED_IMAGES = 8  # of a batch on which number formats are compared


class DetectorSession(FolderSession[DetectorParams, Trainer, EpochMetrics]):
    """One training, from a rendered data set to a folder with weights, configuration and history.

    The data set holds parts.json and scenes/{train,val}.
    """

    METRICS = EpochMetrics
    FREE_TO_CHANGE = DETECTOR_FREE_TO_CHANGE

    def _open_dataset(self) -> None:
        self.classes = read_parts(self.dataset)
        self.config = model_config(self.params, self.classes)
        self.scenes: dict[str, Scenes] = {}

    def load_scenes(self, *, look: bool = True) -> Iterator[Event]:
        """Find the scenes to train and validate on, and look at every file.

        Args:
            look: off: each is read when it is asked for.

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
        # Each process of this host keeps its own.
        keep = fits_memory(self.params.n_local * sum(len(found) for found in images.values()), size)
        for name, found in images.items():
            self.scenes[name] = scenes = Scenes(found, size, keep=keep)
            for done in scenes.look(self.params.n_workers) if look else ():
                yield Progress(f"read {name}", done, len(scenes))
        if not keep:
            yield Note("the decoded images take more than a quarter of the free memory: they are decoded each time")

    def _read_data(self) -> Iterator[Event]:
        for event in self.load_scenes():
            yield event
            if self._stop_asked():
                raise StopAsked("stopped while looking at the images, as asked")

    def find_data(self) -> None:
        """Find the scenes; each is read when it is asked for."""
        for _ in self.load_scenes(look=False):
            pass

    def _events(self, trainer: Trainer) -> Iterator[BatchDone | EpochMetrics]:
        return trainer.run(self.scenes["train"], self.scenes["val"])

    def _new_precision(self) -> tuple[Precision, str]:
        p = self.params
        batch = min(p.batch_size, _TIMED_IMAGES), p.image_size
        build_timed: Callable[[], nn.Module] = lambda: _Timed(build(self.config))  # noqa: E731 - a thunk, not a function
        return choose_precision(p.precision, self.device, build_timed, batch, self.cache / "precision", p.network)

    def _trainer(self, precision: Precision, *, fresh: bool) -> tuple[Trainer, list[str]]:
        model = build(self.config)
        notes = start_weights(model, self.params) if fresh else []
        ema_copy = copy_to_average(lambda: build(self.config), self.params.ema_decay)
        return Trainer(model, self.classes, self.params, self.device, precision, ema_copy=ema_copy), notes

    def _columns(self, metrics: EpochMetrics) -> dict[str, Any]:
        values = columns_of(metrics)
        losses = {f"loss_{name}": value for name, value in values.pop("losses").items()}
        parts = {f"ap_{name}": value for name, value in values.pop("per_class").items()}
        return values | losses | parts

    def data_digest(self) -> str:
        """Return one digest over the images and boxes trained and validated on."""
        return joint_digest(self.scenes)

    def _finish(self, trainer: Trainer) -> None:
        self._put_best()
        save_tensors(self.folder / "last.pt", trainer.graded_model.state_dict())
        write_json(self.folder / "config.json", {**self.config, "precision": trainer.precision})
        self._write_seen(digest for scenes in self.scenes.values() for digest in scenes.digests)
        self._write_history()
        self._mark_trained(trainer, "best_map")


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
