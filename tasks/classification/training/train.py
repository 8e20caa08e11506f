"""The training loop: a generator of batches and epochs, whose state can be saved at each of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.base.errors import TrainingError
from tasks.base.memory import memory_in_use
from tasks.classification.grading.metrics import Grader, Grades
from tasks.classification.grading.temperature import fit_temperature
from tasks.classification.params import TrainParams
from tasks.classification.training.class_weights import balanced_weights
from tasks.classification.training.events import EpochMetrics
from tasks.classification.training.forward import predict
from tasks.classification.training.mixup import mirror_half, mix_pairs
from tasks.training.batches import Batches, Normalise, ahead, batch_indices
from tasks.training.events import BatchDone
from tasks.training.late import Late, Pace
from tasks.training.optim import MovingAverage, build_optimizer, learning_rate
from tasks.training.pieces import Pieces, ran_out_of_memory
from tasks.training.precision import Precision, autocast
from tasks.training.rng_state import generator_states, set_generator_states


class Trainer:
    """Everything a training consists of: weights, optimiser, position, sums of the running epoch, best so far.

    The order of images, their mirroring and mixing are functions of (seed, epoch, batch), so the position is their
    whole state; dropout draws from torch's generators, whose states are kept.

    Args:
        model: (B, 3, S, S) float32 -> (B, n_classes) logits, on `device`.
        ema_copy: a second model of the same shape when `params.ema_decay` is above 0.
        n_classes: at least 2.
        params: as the run has them.
        device: where `model` is.
        precision: format of the forward pass.
        clock: seconds, monotonic.
    """

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
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.params, self.device, self.precision = params, device, precision
        self.optimizer = build_optimizer(self.model, params)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.ema: MovingAverage | None = None
        if ema_copy is not None:
            ema_copy.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.ema = MovingAverage(self.model, ema_copy, params.ema_decay)
        # One graph per batch size: with dynamic ones, which graph a size runs depends on the sizes before it, and a
        # resumed training would differ in its last bits.
        self._forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.model, dynamic=False) if params.compile else self.model
        )
        self._normalise = Normalise(device)
        self._grader = Grader(n_classes)
        self._n_classes = n_classes
        self._clock = clock
        self.epoch, self.batch, self.step = 1, 0, 0
        self.pieces = Pieces(device)
        self.best_acc, self.best_loss, self.best_epoch = -1.0, float("inf"), 0
        self.best_temperature: float | None = None  # by which those weights' confidence is to be softened
        self.stopped = False
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, right answers, images
        self._seconds = 0.0
        self._late = Late(device)
        self._pace = Pace()
        self._notes: list[str] = []

    @property
    def graded_model(self) -> nn.Module:
        """Return the model that is validated and kept: the moving average when there is one."""
        return self.ema.model if self.ema else self.model

    @property
    def done(self) -> bool:
        """Return whether all epochs are over, or the training stopped early."""
        return self.stopped or self.epoch > self.params.num_epochs

    def run(self, train: Batches, val: Batches) -> Iterator[BatchDone | EpochMetrics]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Raises:
            TrainingError: the loss is not finite, or one image does not fit into the GPU's memory.
        """
        weights = None
        if self.params.class_weights == "balanced":
            weights = balanced_weights(train.labels, self._n_classes).to(self.device)
        while not self.done:
            started = self._clock()
            for done in self._train_epoch(train, weights):
                self._seconds += self._clock() - started
                yield done
                started = self._clock()
            metrics = self._finish_epoch(val, started)
            yield metrics

    def _train_epoch(self, train: Batches, weights: Tensor | None) -> Iterator[BatchDone]:
        n_batches, group_size = len(train), self.params.accumulate
        steps_per_epoch = -(-n_batches // group_size)
        self.model.train()
        group: list[tuple[Tensor, Tensor]] = []
        loaded = self._pace.waited(ahead(train.epoch(self.epoch, self.batch), self.device), self._clock)
        for number, batch in enumerate(loaded, self.batch + 1):
            group.append(batch)
            if len(group) < group_size and number < n_batches:
                continue
            self._backward(group, weights)
            group.clear()
            self._update(learning_rate(self.params, self.step, steps_per_epoch))
            self.batch = number
            if self.step % 50 == 0:  # on a GPU the sum is read later, when it is there, without waiting for it
                self._check_finite(self._late.exchange(self._sums[0]))
            yield BatchDone(self.epoch, self.batch, n_batches)
        self._check_finite()

    def _backward(self, group: Sequence[tuple[Tensor, Tensor]], weights: Tensor | None) -> None:
        """Leave the gradient of the mean loss of a group of batches; cut them as the GPU's memory asks for it."""
        rng = generator_states(self.device)

        def attempt(n_pieces: int) -> Tensor:
            sums, size = torch.zeros_like(self._sums), -(-self.params.batch_size // n_pieces)
            for number, (images, labels) in enumerate(group, self.batch):
                scale = 1 / (len(group) * len(labels))
                for piece in batch_indices(len(labels), size, range(len(labels))):
                    draws = np.random.default_rng((self.params.seed, self.epoch, number, int(piece[0])))
                    part = slice(int(piece[0]), int(piece[-1]) + 1)  # a view: nothing is copied
                    sums += self._backward_piece(images[part], labels[part], weights, scale, draws)
            return sums

        def start_over() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            set_generator_states(rng, self.device)
            self._notes.append(
                f"out of memory at {len(group[0][0])} images: a batch now runs in {self.pieces.n} pieces, "
                "gradients added up; batch norm sees the pieces"
            )

        try:
            self._sums += self.pieces.run(attempt, self.params.batch_size, start_over)
        except RuntimeError as exc:
            if not ran_out_of_memory(exc):
                raise
            raise TrainingError(
                f"one image of {tuple(group[0][0].shape[1:])} does not fit into the memory of {self.device}: "
                f"take a smaller image_size or model ({exc})"
            ) from exc

    def _backward_piece(
        self, images: Tensor, labels: Tensor, weights: Tensor | None, scale: float, rng: np.random.Generator
    ) -> Tensor:
        """Backpropagate `scale` times the summed loss; return (3,): summed loss, right answers, images."""
        x, y = self._normalise(images), labels
        if self.params.horizontal_flip:
            x = mirror_half(x, rng)
        mix, other = 1.0, y
        if self.params.mixup > 0:
            x, other, mix = mix_pairs(x, y, self.params.mixup, rng)
        with autocast(self.device, self.precision):
            logits = self._forward(x)
        logits = logits.float()
        loss = mix * self._loss(logits, y, weights)
        if mix < 1:
            loss = loss + (1 - mix) * self._loss(logits, other, weights)
        self.scaler.scale(loss * scale).backward()
        answers = logits.detach().argmax(1)
        right = mix * (answers == y).sum() + (1 - mix) * (answers == other).sum()
        n_images = torch.full_like(loss, len(y), dtype=torch.float64)
        return torch.stack([loss.detach().double(), right.double(), n_images])

    def _loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        return F.cross_entropy(
            logits, labels, weight=weights, label_smoothing=self.params.label_smoothing, reduction="sum"
        )

    def _update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.params.clip_grad_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.step)
        self.step += 1

    def _check_finite(self, total: float | None = None) -> None:
        """Raise where the summed loss is not finite; None: as it stands now, which waits for a GPU."""
        loss = float(self._sums[0]) if total is None else total
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {self.epoch}, by batch {self.batch}, at learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g} in {self.precision}: need a finite one; lower the learning "
                "rate, clip the gradients or use fp32"
            )

    def _finish_epoch(self, val: Batches, started: float) -> EpochMetrics:
        """Validate, compare with the best so far, and move on to the next epoch."""
        pace, self._pace = self._pace, Pace()
        for logits, labels in predict(self.graded_model, val, self.device, self.precision):
            self._grader.update(logits, labels)
        grades = self._grader.compute()
        is_best = self._compare(grades)
        if is_best:
            self.best_temperature = fit_temperature(*self._grader.answers())
        self._grader.reset()
        loss, right, images = (float(value) for value in self._sums)
        metrics = EpochMetrics(
            epoch=self.epoch,
            total_epochs=self.params.num_epochs,
            train_loss=loss / images,
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
            learning_rate=self.optimizer.param_groups[0]["lr"],
            best_acc=self.best_acc,
            is_best=is_best,
            seconds=self._seconds + self._clock() - started,
            images_per_s=pace.images_per_s,
            wait_share=pace.wait_share,
            memory_mib=memory_in_use(self.device) / 2**20,
            notes=tuple(self._notes),
        )
        self._sums.zero_()
        self._notes.clear()
        self._seconds = 0.0
        self.epoch, self.batch = self.epoch + 1, 0
        return metrics

    def _compare(self, grades: Grades) -> bool:
        """Return whether the epoch is the best so far; after too many that are not, the training stops."""
        is_best = (grades.accuracy, -grades.loss) > (self.best_acc, -self.best_loss)
        if is_best:
            self.best_acc, self.best_loss, self.best_epoch = grades.accuracy, grades.loss, self.epoch
        elif self.params.patience and self.epoch - self.best_epoch >= self.params.patience:
            self.stopped = True
            self._notes.append(
                f"stopped early: no better epoch since {self.best_epoch} (patience {self.params.patience})"
            )
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain values, so that `weights_only` loading takes it.

        Raises:
            TrainingError: the loss is not finite; such a state is not worth keeping.
        """
        self._check_finite()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "n_chunks": self.pieces.n,
            "best": {
                "acc": self.best_acc,
                "loss": self.best_loss,
                "epoch": self.best_epoch,
                "temperature": self.best_temperature,
            },
            "stopped": self.stopped,
            "sums": self._sums,
            "seconds": self._seconds,
            "notes": list(self._notes),
            "rng": generator_states(self.device),
            "precision": self.precision,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave; the next batch is the one that would have come."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"])
        self.epoch, self.batch, self.step = (state["position"][k] for k in ("epoch", "batch", "step"))
        self.pieces.n = state["n_chunks"]
        best = state["best"]
        self.best_acc, self.best_loss, self.best_epoch = (best[k] for k in ("acc", "loss", "epoch"))
        self.best_temperature = best.get("temperature")  # checkpoints of before 2026-11-28 have none
        self.stopped = state["stopped"]
        self._sums.copy_(state["sums"])
        self._seconds = state["seconds"]
        self._notes = list(state["notes"])
        set_generator_states(state["rng"], self.device)
