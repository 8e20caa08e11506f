"""The loop that trains a detector: a generator of batches and epochs, with its state."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base.errors import TrainingError
from tasks.base.memory import memory_in_use
from tasks.recognition.detector.finding import find_all
from tasks.recognition.detector.grading.mean_precision import Precision, PrecisionMeter
from tasks.recognition.detector.networks import Detector, Targets
from tasks.recognition.detector.training.augment import boxes_of, pixels_of, plan, trained_size
from tasks.recognition.detector.training.events import EpochMetrics
from tasks.recognition.detector.training.scenes import Rgb, Scenes
from tasks.recognition.params import DetectorParams
from tasks.training.batches import Batches, ahead
from tasks.training.events import BatchDone
from tasks.training.late import Late, Pace
from tasks.training.optim import MovingAverage, build_optimizer, learning_rate
from tasks.training.pieces import Pieces, ran_out_of_memory
from tasks.training.precision import Precision as NumberFormat
from tasks.training.precision import autocast
from tasks.training.rng_state import generator_states, set_generator_states


class Trainer:
    """Everything a training consists of: weights, optimiser, position, sums of the running epoch, best so far.

    The order of scenes and how each is changed are functions of (seed, epoch, sample), so the position is their whole
    state; what a network draws by itself comes from torch's generators, whose states are kept.

    Args:
        model: the detector; moved to the device.
        classes: names of the parts.
        params: as the run has them.
        device: to train on.
        number_format: of the forward pass.
        ema_copy: a second detector of the same shape when `params.ema_decay` is above 0.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        model: Detector,
        classes: Sequence[str],
        params: DetectorParams,
        device: torch.device,
        number_format: NumberFormat,
        *,
        ema_copy: Detector | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = _placed(model, device)
        self.classes, self.params, self.device, self.number_format = list(classes), params, device, number_format
        self.optimizer = build_optimizer(self.model, params)
        self.scaler = torch.amp.GradScaler(device.type, enabled=number_format == "fp16")
        self.ema: MovingAverage | None = None
        if ema_copy is not None:
            self.ema = MovingAverage(self.model, _placed(ema_copy, device), params.ema_decay)
        self._clock = clock
        self.epoch, self.batch, self.step = 1, 0, 0
        self.pieces = Pieces(device)
        self.best_map, self.best_map50, self.best_epoch = -1.0, -1.0, 0
        self.stopped = False
        self._sums: dict[str, Tensor] = {}  # part of the loss -> summed over images, float64
        self._n_images = 0
        self._seconds = 0.0
        self._late, self._pace = Late(device), Pace()
        self._notes: list[str] = []

    @property
    def graded_model(self) -> Detector:
        """Return the detector that is validated and kept: the moving average when there is one."""
        return self.ema.model if self.ema else self.model  # type: ignore[return-value]

    @property
    def done(self) -> bool:
        """Return whether all epochs are over, or the training stopped early."""
        return self.stopped or self.epoch > self.params.num_epochs

    def run(self, train: Scenes, val: Scenes) -> Iterator[BatchDone | EpochMetrics]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Raises:
            TrainingError: the loss is not finite, or one image does not fit into the GPU's memory.
        """
        while not self.done:
            started = self._clock()
            for done in self._train_epoch(train):
                self._seconds += self._clock() - started
                yield done
                started = self._clock()
            yield self._finish_epoch(val, started)

    def _batches(self, scenes: Scenes) -> Batches:
        """Return the batches of this epoch, whose labels are the numbers of the scenes."""
        p, epoch = self.params, self.epoch

        def read(number: int) -> Rgb:
            return pixels_of(plan(p.seed, epoch, number, scenes, p), scenes, trained_size(p, epoch))

        pin = self.device.type == "cuda"
        numbers = range(len(scenes))
        return Batches(read, numbers, p.batch_size, shuffle=True, seed=p.seed, n_workers=p.n_workers, pin=pin)

    def _targets(self, numbers: Tensor, scenes: Scenes) -> Targets:
        p, rows = self.params, []
        for number in numbers.tolist():
            boxes, labels = boxes_of(plan(p.seed, self.epoch, number, scenes, p), scenes, trained_size(p, self.epoch))
            rows.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)})
        return [{name: value.to(self.device, non_blocking=True) for name, value in row.items()} for row in rows]

    def _train_epoch(self, scenes: Scenes) -> Iterator[BatchDone]:
        batches = self._batches(scenes)
        n_batches = len(batches)
        self.model.train()
        loaded = self._pace.waited(ahead(batches.epoch(self.epoch, self.batch), self.device), self._clock)
        for number, (images, numbers) in enumerate(loaded, self.batch + 1):
            self._backward(images, self._targets(numbers.cpu(), scenes))
            self._update(learning_rate(self.params, self.step, n_batches))
            self.batch = number
            if self.step % 50 == 0:  # on a GPU the sum is read later, when it is there, without waiting for it
                self._check_finite(self._late.exchange(self._total()))
            yield BatchDone(self.epoch, self.batch, n_batches)
        self._check_finite()

    def _backward(self, images: Tensor, targets: Targets) -> None:
        """Leave the gradient of the mean loss of a batch; cut it as the GPU's memory asks for it."""
        rng = generator_states(self.device)

        def attempt(n_pieces: int) -> dict[str, Tensor]:
            sums: dict[str, Tensor] = {}
            size = -(-len(images) // n_pieces)
            for start in range(0, len(images), size):
                part = slice(start, start + size)
                for name, value in self._backward_piece(images[part], targets[part], len(images)).items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value
            return sums

        def start_over() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            set_generator_states(rng, self.device)
            self._notes.append(
                f"out of memory at {len(images)} images: a batch now runs in {self.pieces.n} pieces, gradients added "
                "up; batch norm sees the pieces"
            )

        try:
            sums = self.pieces.run(attempt, len(images), start_over)
        except RuntimeError as exc:
            if not ran_out_of_memory(exc):
                raise
            raise TrainingError(
                f"one image of {tuple(images.shape[1:])} does not fit into the memory of {self.device}: take a smaller "
                f"image_size or network ({exc})"
            ) from exc
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._n_images += len(images)

    def _backward_piece(self, images: Tensor, targets: Targets, n_images: int) -> dict[str, Tensor]:
        """Backpropagate a piece's share of the mean loss; return each part, summed over its images, in float64."""
        pixels = images.float().div_(255)
        with autocast(self.device, self.number_format):
            losses = self.model.losses(pixels, targets)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        self.scaler.scale(total * (len(images) / n_images)).backward()
        return {name: value.detach().double() * len(images) for name, value in losses.items()}

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

    def _total(self) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        return torch.stack([zero, *self._sums.values()]).sum()

    def _check_finite(self, total: float | None = None) -> None:
        """Raise where the summed loss is not finite; None: as it stands now, which waits for a GPU."""
        loss = float(self._total()) if total is None else total
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {self.epoch}, by batch {self.batch}, at learning rate "
                f"{self.optimizer.param_groups[0]['lr']:g} in {self.number_format}: need a finite one; lower the "
                "learning rate, clip the gradients or use fp32"
            )

    def _validate(self, val: Scenes) -> Precision:
        meter = PrecisionMeter(self.classes)
        for found, truth in find_all(self.graded_model, val, self.params, self.device, self.number_format):
            meter.update(found, truth)
        return meter.compute()

    def _finish_epoch(self, val: Scenes, started: float) -> EpochMetrics:
        """Validate, compare with the best so far, and move on to the next epoch."""
        pace, self._pace = self._pace, Pace()
        precision = self._validate(val)
        is_best = self._compare(precision)
        losses = {name: float(value) / self._n_images for name, value in self._sums.items()}
        metrics = EpochMetrics(
            epoch=self.epoch,
            total_epochs=self.params.num_epochs,
            losses=losses,
            train_loss=sum(losses.values()),
            map50=precision.map50,
            map=precision.map,
            per_class=precision.per_class,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            best_map=self.best_map,
            is_best=is_best,
            seconds=self._seconds + self._clock() - started,
            images_per_s=pace.images_per_s,
            wait_share=pace.wait_share,
            memory_mib=memory_in_use(self.device) / 2**20,
            notes=tuple(self._notes),
        )
        self._sums, self._n_images = {}, 0
        self._notes.clear()
        self._seconds = 0.0
        self.epoch, self.batch = self.epoch + 1, 0
        return metrics

    def _compare(self, precision: Precision) -> bool:
        """Return whether the epoch is the best so far; after too many that are not, the training stops."""
        is_best = (precision.map, precision.map50) > (self.best_map, self.best_map50)
        if is_best:
            self.best_map, self.best_map50, self.best_epoch = precision.map, precision.map50, self.epoch
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
            "n_pieces": self.pieces.n,
            "best": {"map": self.best_map, "map50": self.best_map50, "epoch": self.best_epoch},
            "stopped": self.stopped,
            "sums": self._sums,
            "n_images": self._n_images,
            "seconds": self._seconds,
            "notes": list(self._notes),
            "rng": generator_states(self.device),
            "precision": self.number_format,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave; the next batch is the one that would have come."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(state["ema"])
        self.epoch, self.batch, self.step = (state["position"][k] for k in ("epoch", "batch", "step"))
        self.pieces.n = state["n_pieces"]
        self.best_map, self.best_map50, self.best_epoch = (state["best"][k] for k in ("map", "map50", "epoch"))
        self.stopped = state["stopped"]
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self._n_images = state["n_images"]
        self._seconds = state["seconds"]
        self._notes = list(state["notes"])
        set_generator_states(state["rng"], self.device)


def _placed(model: Detector, device: torch.device) -> Detector:
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
