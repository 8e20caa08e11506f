"""Trains a detector on scenes that are cut, scaled and coloured anew in every epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.recognition.detector.finding import find_all
from tasks.recognition.detector.grading.mean_precision import PrecisionMeter
from tasks.recognition.detector.networks import Detector, Targets
from tasks.recognition.detector.training.augment import boxes_of, pixels_of, plan, trained_size
from tasks.recognition.detector.training.events import EpochMetrics
from tasks.recognition.detector.training.scenes import Rgb, Scenes
from tasks.recognition.params import DetectorParams
from tasks.training.batches import Batch, Batches, ahead, sent
from tasks.training.early_stopping import Score
from tasks.training.events import BatchDone
from tasks.training.precision import Precision, autocast
from tasks.training.trainer import BaseTrainer, Group

Losses = dict[str, Tensor]
"""Part of the loss -> summed over images, float64."""


class Trainer(BaseTrainer[Detector, DetectorParams, EpochMetrics]):
    """The training of a detector.

    Args:
        model: the detector.
        classes: names of the parts.
        params: as the run has them.
        device: to train on.
        precision: number format of the forward pass.
        ema_copy: a second detector of the same shape when `params.ema_decay` is above 0.
        clock: seconds, monotonic.
    """

    SMALLER = "image_size or network"
    _sums: Losses
    _n_images: int

    def __init__(
        self,
        model: Detector,
        classes: Sequence[str],
        params: DetectorParams,
        device: torch.device,
        precision: Precision,
        *,
        ema_copy: Detector | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(model, params, device, precision, ema_copy=ema_copy, clock=clock)
        self.classes = list(classes)
        self._scenes: Scenes | None = None  # of the training

    @property
    def _skips(self) -> bool:
        return self.model.skips

    def run(self, train: Scenes, val: Scenes) -> Iterator[BatchDone | EpochMetrics]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Raises:
            TrainingError: the loss is not finite, or one image does not fit into the GPU's memory.
        """
        self._scenes = train
        yield from self._epochs(lambda: self._batches(train), lambda: self._grade(val))

    def _batches(self, scenes: Scenes) -> Batches:
        """Return the batches of this epoch, whose labels are the numbers of the scenes."""
        p, epoch = self.params, self.epoch

        def read(number: int) -> Rgb:
            return pixels_of(plan(p.seed, epoch, number, scenes, p), scenes, trained_size(p, epoch))

        return self._shuffled(read, range(len(scenes)))

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        return ahead(batches, self.device, labels_stay=True)  # they are the numbers of scenes

    def _targets(self, numbers: Tensor, scenes: Scenes) -> Targets:
        p, size = self.params, trained_size(self.params, self.epoch)
        rows = [boxes_of(plan(p.seed, self.epoch, n, scenes, p), scenes, size) for n in numbers.tolist()]
        lengths = [len(labels) for _, labels in rows]
        # Those of all images at once: each way to a GPU costs as much as a kernel.
        pairs = [
            sent(torch.from_numpy(np.concatenate(each)), self.device).split(lengths) for each in zip(*rows, strict=True)
        ]
        return [{"boxes": boxes, "labels": labels} for boxes, labels in zip(*pairs, strict=True)]

    def _backward(self, group: Group, sizes: Sequence[int], steps_per_epoch: int) -> None:
        ((images, numbers),) = group
        assert self._scenes is not None, "run comes first"
        targets = self._targets(numbers, self._scenes)

        def attempt(n_pieces: int) -> Losses:
            if self.ranks.size > 1:
                return self._backward_share(images, targets, sizes[0])
            sums: Losses = {}
            size = -(-len(images) // n_pieces)
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                _add(sums, self._backward_piece(images[part], targets[part], len(images)))
            return sums

        _add(self._sums, self._in_pieces(attempt, images, sizes[0]))
        self._n_images += sizes[0]

    def _backward_piece(self, images: Tensor, targets: Targets, n_images: int) -> Losses:
        """Backpropagate a piece's share of the mean loss; return each part, summed over its images, in float64."""
        losses = self._losses(images, targets)
        self.scaler.scale(_total(losses) * (len(images) / n_images)).backward()
        return {name: value.detach().double() * len(images) for name, value in losses.items()}

    def _losses(self, images: Tensor, targets: Targets) -> Losses:
        pixels = images.float().div_(255)
        with autocast(self.device, self.precision):
            return dict(self._forward(pixels, targets))

    def _backward_share(self, images: Tensor, targets: Targets, n_images: int) -> Losses:
        """Backpropagate this process's part of the mean loss of a batch of all processes.

        Returns:
            Each part of the loss, summed over the images of the batch, the same in all processes.
        """
        counted = len(images) > 0
        self.ranks.count(self.model, counted=counted)
        if counted:
            losses = self._losses(images, targets)
        else:  # the networks take no batch of nothing
            losses = self._losses(*self._stand_in(images))
        weight = counted * self._weight(self.model.n_counted(targets))
        # Gradients are averaged over processes, and are to be added up.
        self.scaler.scale(_total(losses) * (weight * self.ranks.size)).backward()
        rows = torch.stack([value.detach().double() for value in losses.values()]) * (weight * n_images)
        return dict(zip(losses, self.ranks.add_up(rows), strict=True))

    def _weight(self, n: int | Tensor) -> Tensor:
        """Return what the mean over n counts in the mean over those of all processes, float64."""
        own = torch.as_tensor(n, dtype=torch.float64, device=self.device)
        return own.clamp(min=1) / self.ranks.add_up(own.clone()).clamp(min=1)

    def _stand_in(self, images: Tensor) -> tuple[Tensor, Targets]:
        """Return a black image without parts, of the size of the others."""
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        row = {name: value.to(self.device) for name, value in nothing.items()}
        return images.new_zeros(1, *images.shape[1:]), [row]

    def _grade(self, val: Scenes) -> EpochMetrics:
        """Validate, and compare with the best epoch so far."""
        meter = PrecisionMeter(self.classes)
        for found, truth in find_all(self.average, val, self.params, self.device, self.precision, self.ranks):
            meter.update(found, truth)
        grades = meter.compute()
        is_best = self._is_best((grades.map, grades.map50))
        losses = {name: float(value) / self._n_images for name, value in self._sums.items()}
        return EpochMetrics(
            **self._basics(sum(losses.values()), is_best),
            losses=losses,
            map50=grades.map50,
            map=grades.map,
            per_class=grades.per_class,
            best_map=self.stopping.best[0],
        )

    def _summed_loss(self) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        return torch.stack([zero, *self._sums.values()]).sum()

    def _sums_state(self) -> dict[str, Any]:
        return {"sums": self._sums, "n_images": self._n_images}

    def _load_sums(self, state: dict[str, Any]) -> None:
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self._n_images = state["n_images"]

    def _reset_sums(self) -> None:
        self._sums, self._n_images = {}, 0

    def _best_state(self) -> dict[str, Any]:
        return dict(zip(("map", "map50"), self.stopping.best, strict=True))

    def _load_best(self, state: dict[str, Any]) -> Score:
        return state["map"], state["map50"]


def _total(losses: Losses) -> Tensor:
    return torch.stack([value.float() for value in losses.values()]).sum()


def _add(sums: Losses, more: Losses) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, torch.zeros_like(value)) + value
