"""Trains a classifier: weighted and mixed losses, graded on images that are not trained on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tasks.classification.grading.metrics import Grader
from tasks.classification.grading.temperature import fit_temperature
from tasks.classification.params import TrainParams
from tasks.classification.training.class_weights import balanced_weights
from tasks.classification.training.events import EpochMetrics
from tasks.classification.training.forward import predict
from tasks.classification.training.mixup import mirror, mix_pairs
from tasks.training.batches import Batches, Normalise
from tasks.training.early_stopping import Score
from tasks.training.events import BatchDone
from tasks.training.pieces import parts_of
from tasks.training.precision import Precision, autocast
from tasks.training.trainer import Group, TensorTrainer


class Trainer(TensorTrainer[nn.Module, TrainParams, EpochMetrics]):
    """The training of a classifier.

    Args:
        model: (B, 3, S, S) float32 -> (B, n_classes) logits.
        n_classes: at least 2.
        params: as the run has them.
        device: to train on.
        precision: format of the forward pass.
        ema_copy: a second model of the same shape when `params.ema_decay` is above 0.
        clock: seconds, monotonic.
    """

    N_SUMS = 3  # loss, right answers, images
    PIECES_KEY = "n_chunks"

    def __init__(
        self,
        model: nn.Module,
        n_classes: int,
        params: TrainParams,
        device: torch.device,
        precision: Precision,
        *,
        ema_copy: nn.Module | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(model, params, device, precision, ema_copy=ema_copy, accumulate=params.accumulate, clock=clock)
        # One graph per batch size: with dynamic ones, which graph a size runs depends on the sizes before it, and a
        # resumed training would differ in its last bits.
        if params.compile:
            self._forward = torch.compile(self.model, dynamic=False)
        self._normalise = Normalise(device)
        self._grader = Grader(n_classes)
        self._n_classes = n_classes
        self._weights: Tensor | None = None  # of the classes in the loss
        self.best_temperature: float | None = None  # by which the best weights' confidence is to be softened

    def run(self, train: Batches, val: Batches) -> Iterator[BatchDone | EpochMetrics]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Args:
            train: trained on; where several processes train together, it has this one's slice of each batch.
            val: validated on; then it has this one's turns.

        Raises:
            TrainingError: the loss is not finite, or one image does not fit into the GPU's memory.
        """
        if self.params.class_weights == "balanced":
            self._weights = balanced_weights(train.labels, self._n_classes).to(self.device)
        yield from self._epochs(lambda: train, lambda: self._grade(val))

    def _backward(self, group: Group, sizes: Sequence[int], steps_per_epoch: int) -> None:
        share = -(-self.params.batch_size // self.ranks.size)  # of a batch, in images

        def attempt(n_pieces: int) -> Tensor:
            sums, size = torch.zeros_like(self._sums), -(-share // n_pieces)
            pieces = [
                (number, n_images, images, labels, part)
                for number, (n_images, (images, labels)) in enumerate(zip(sizes, group, strict=True), self.batch)
                for part in parts_of(len(labels), size)
            ]
            for which, (number, n_images, images, labels, part) in enumerate(pieces, 1):
                # Gradients are averaged over processes, and are to be those of the mean over the batches of the step.
                scale = self.ranks.size / (len(group) * n_images)
                draws = self._draws(number, n_images, part)
                with self._gradients(exchanged=which == len(pieces)):
                    sums += self._backward_piece(images[part], labels[part], scale, *draws)
            return sums

        self._sums += self.ranks.add_up(self._in_pieces(attempt, group[0][0], share))

    def _gradients(self, *, exchanged: bool) -> AbstractContextManager[None]:
        """Add up gradients in this process for a block; if `exchanged`, over all processes with its backward pass."""
        if exchanged or not isinstance(self._forward, DistributedDataParallel):
            return nullcontext()
        return self._forward.no_sync()

    def _draws(self, number: int, n: int, part: slice) -> tuple[np.random.Generator, np.ndarray]:
        """Return the generator of a piece of a batch of n images, and which of the piece's images are mirrored.

        Both are the same however batches are cut.
        """
        seed = (self.params.seed, self.epoch, number)
        begin = self.ranks.bounds(n)[0] + part.start
        rng = np.random.default_rng((*seed, 0))
        mirrored = rng.random(n) < 0.5 if self.params.horizontal_flip else np.zeros(n, bool)
        return rng if begin == 0 else np.random.default_rng((*seed, begin)), mirrored[
            begin : begin + part.stop - part.start
        ]

    def _backward_piece(
        self, images: Tensor, labels: Tensor, scale: float, rng: np.random.Generator, mirrored: np.ndarray
    ) -> Tensor:
        """Backpropagate `scale` times the summed loss; return (3,): summed loss, right answers, images."""
        x, y = self._normalise(images), labels
        if mirrored.any():
            x = mirror(x, mirrored)
        mix, other = 1.0, y
        if self.params.mixup > 0:
            x, other, mix = mix_pairs(x, y, self.params.mixup, rng)
        with autocast(self.device, self.precision):
            logits = self._forward(x)
        logits = logits.float()
        loss = mix * self._loss(logits, y)
        if mix < 1:
            loss = loss + (1 - mix) * self._loss(logits, other)
        self.scaler.scale(loss * scale).backward()
        answers = logits.detach().argmax(1)
        right = mix * (answers == y).sum() + (1 - mix) * (answers == other).sum()
        n_images = torch.full_like(loss, len(y), dtype=torch.float64)
        return torch.stack([loss.detach().double(), right.double(), n_images])

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.params.label_smoothing
        return F.cross_entropy(logits, labels, weight=self._weights, label_smoothing=smoothing, reduction="sum")

    def _grade(self, val: Batches) -> EpochMetrics:
        """Validate, and compare with the best epoch so far."""
        answers = predict(self.graded_model, val, self.device, self.precision)
        for logits, labels in self.ranks.gathered(answers, val.sizes, self._n_classes):
            self._grader.update(logits, labels)
        grades = self._grader.compute()
        is_best = self._is_best((grades.accuracy, -grades.loss))
        if is_best:
            self.best_temperature = fit_temperature(*self._grader.answers())
        self._grader.reset()
        loss, right, images = (float(value) for value in self._sums)
        return EpochMetrics(
            **self._basics(loss / images, is_best),
            train_acc=right / images,
            val_loss=grades.loss,
            val_acc=grades.accuracy,
            macro_f1=grades.f1_macro,
            micro_f1=grades.f1_micro,
            mAP=grades.average_precision,
            top1_acc=grades.top1,
            top3_acc=grades.top3,
            top5_acc=grades.top5,
            precision=grades.precision,
            recall=grades.recall,
            best_acc=self.stopping.best[0],
        )

    def _best_state(self) -> dict[str, Any]:
        accuracy, minus_loss = self.stopping.best
        return {"acc": accuracy, "loss": -minus_loss, "temperature": self.best_temperature}

    def _load_best(self, state: dict[str, Any]) -> Score:
        self.best_temperature = state.get("temperature")  # checkpoints of before 2026-11-28 have none
        return state["acc"], -state["loss"]
