"""The loop that fits Gaussians to images: a generator whose state can be saved at any step."""

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.base.errors import TrainingError
from tasks.base.memory import memory_in_use
from tasks.base.progress import Note
from tasks.splatting.fit.densify import Densify
from tasks.splatting.fit.exposure import Exposures
from tasks.splatting.fit.fit_events import (
    Done,
    End,
    FitResult,
    Measurement,
    MeasurementDone,
    Preview,
    StepsDone,
)
from tasks.splatting.fit.mcmc import Mcmc
from tasks.splatting.fit.optimizer import SplatOptimizer
from tasks.splatting.fit.pose_opt import PoseCorrections
from tasks.splatting.fit.presets import Settings
from tasks.splatting.fit.training_images import TrainingImage, TrainingImages, order_of
from tasks.splatting.loss.loss_meter import Losses
from tasks.splatting.loss.measure import MAX_PREVIEWS, Score, mean_score, measure
from tasks.splatting.loss.photo_loss import penalty, photo_loss
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer, Rendered
from tasks.training.parallel.ranks import ALONE, Ranks

REPORT_EVERY = 25  # steps
COMPARE_EVERY = 100  # steps after which processes compare what they have
FEWEST = 1000  # Gaussians that must fit into the memory
MEANS_LR_END = 0.01  # of the means' learning rate, at the last step. Source: 3DGS, upstream gsplat


@dataclass(frozen=True, slots=True)
class FitData:
    """What a fit is given: images to fit to, images to measure on, where to start, and how large the scene is."""

    train: TrainingImages
    held_out: TrainingImages
    start: Gaussians  # taken over
    scene_size: float  # world units


class Fit:
    """Everything a fit consists of: Gaussians, moments, strategy, random generator, position, losses.

    The order of images is a function of (seed, step); all other draws come from one generator of torch.

    Several processes draw some of the images of a step each, and add up gradients and what strategies look at. All else
    each does by itself, in the same way, with the same generator, so that all have the same Gaussians, bit for bit.

    Args:
        data: what to fit to, and from where.
        settings: resolved for the device.
        rasterizer: draws on `device`.
        device: where the fit runs.
        num_threads: of the CPU, for the loss; the result does not depend on it.
        deadline: at this time of `clock`, seconds, the fit stops by itself and says so; None: never.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        data: FitData,
        settings: Settings,
        rasterizer: Rasterizer,
        device: torch.device,
        *,
        num_threads: int = 1,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data, self.settings, self.device = data, settings, device
        self._rasterizer, self._deadline, self._clock = rasterizer, deadline, clock
        self._num_threads = num_threads
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        start = Gaussians(**{name: tensor.to(device) for name, tensor in data.start.tensors().items()})
        self.optimizer = SplatOptimizer(start, settings.batch_size)
        self.strategy: Mcmc | Densify = (
            Mcmc(settings, self.generator)
            if settings.strategy == "mcmc"
            else Densify(settings, self.generator, data.scene_size, len(start))
        )
        cameras = [view.camera for view in data.train.views]
        self.exposures = Exposures(len(cameras), settings.exposure_lr, device) if settings.exposure_opt else None
        self.poses = (
            PoseCorrections(cameras, settings.pose_opt_lr, settings.pose_opt_reg, device) if settings.pose_opt else None
        )
        self.step = 0  # steps done
        self._seconds = {"steps": 0.0, "measuring": 0.0}
        self._losses = Losses(settings.max_steps)
        self._notes: list[str] = []
        self.ranks = ALONE
        self._compared: int | None = None  # the step after which processes last did

    def join(self, ranks: Ranks) -> None:
        """Draw a share of the images of each step from now on, other processes the rest; before the first step of all.

        What the first one's `state_dict` gives is the state of them all.
        """
        self.ranks = self.strategy.ranks = ranks

    @property
    def gaussians(self) -> Gaussians:
        """Return what is fitted, as leaves on the device."""
        return self.optimizer.gaussians

    @property
    def sh_degree(self) -> int:
        """Return the degree of the spherical harmonics that the next step uses."""
        return min(self.step // self.settings.sh_degree_interval, self.settings.sh_degree)

    @property
    def done(self) -> bool:
        """Return whether all steps are over."""
        return self.step >= self.settings.max_steps

    def run(self) -> Iterator[Note | StepsDone | MeasurementDone | Done]:
        """Fit from where the state stands; at every yield `state_dict` is whole.

        Raises:
            TrainingError: the loss is not finite, or FEWEST Gaussians do not fit into the memory.
        """
        self._compare()
        window = self._clock()
        while not self.done and not self._late():
            if self.step and self.step % self.settings.eval_every == 0 and not self._losses.is_measured(self.step):
                yield self.measured()
                window = self._clock()
            begun = self._clock()
            if self.step % COMPARE_EVERY == 0:
                self._compare()
            self._one_step()
            self._seconds["steps"] += self._clock() - begun
            for text in self._notes:
                yield Note(text)
            self._notes.clear()
            if self.step % REPORT_EVERY == 0 or self.done:
                event = self._report(self._clock() - window)
                yield event
                window = self._clock()
        self._compare()
        ended: End = "finished" if self.done else "deadline"
        last = self.measured()
        yield last
        yield Done(FitResult(ended, last.metrics, self._flag(last.metrics)))

    def _late(self) -> bool:
        if self.ranks.size > 1 and self.step % REPORT_EVERY:  # the first one's clock counts, and asking it takes time
            return False
        now, end = self.ranks.firsts(self._clock(), math.inf if self._deadline is None else self._deadline)
        return now >= end

    def _compare(self) -> None:
        """See that all processes have the same Gaussians, once after a step.

        Raises:
            TrainingError: they have not.
        """
        if self.ranks.size == 1 or self._compared == self.step:
            return
        self._compared = self.step
        if others := self.ranks.different(_summary(self.gaussians)):
            raise TrainingError(
                f"after step {self.step} of {self.settings.max_steps}, process {others[0] + 1} of {self.ranks.size} "
                "has other Gaussians than the first one, need the same: a GPU that computes wrongly does that; "
                "`yard resume` goes on from the last checkpoint"
            )

    def _one_step(self) -> None:
        """Take a step; where the memory does not hold it, with fewer Gaussians.

        Raises:
            TrainingError: too few would be left, or other processes are further.
        """
        while True:
            try:
                self._attempt()
                return
            except (torch.cuda.OutOfMemoryError, MemoryError) as exc:
                reason = str(exc).split("\n")[0][:200] or type(exc).__name__
            if self.ranks.size > 1:
                raise TrainingError(
                    f"{len(self.gaussians)} Gaussians do not fit into the memory of one of {self.ranks.size} devices: "
                    f"take a smaller cap_max or max_side ({reason})"
                )
            # Outside the except block, because the traceback keeps the tensors of the attempt alive.
            self._shrink(reason)

    def _attempt(self) -> None:
        s, n = self.settings, self.settings.batch_size
        indices = [order_of(s.seed, len(self.data.train), self.step * n + number) for number in range(n)]
        backgrounds = self._backgrounds()
        mine = range(*self.ranks.bounds(n))
        rendered, losses = zip(*(self._backward(indices[k], backgrounds[k]) for k in mine), strict=True)
        loss = self._add_up(losses[0] if len(losses) == 1 else torch.stack(losses).sum())
        progress = self.step / s.max_steps
        means_lr = s.means_lr * self.data.scene_size * MEANS_LR_END**progress
        rates = {"means": means_lr, "scales": s.scales_lr, "opacities": s.opacities_lr}
        self.optimizer.step({**rates, "quats": s.quats_lr, "sh0": s.sh0_lr, "shN": s.shN_lr})
        if self.exposures:
            self.exposures.step()
        if self.poses:
            self.poses.step(progress)
        self.strategy.after_step(self.optimizer, rendered, self.step, means_lr)
        self._losses.add(self.step, ", ".join(self.data.train.views[i].camera.name for i in indices), loss)
        self.step += 1

    def _backgrounds(self) -> Sequence[Tensor | None]:
        """Return what is behind each image of the step, of all processes."""
        n = self.settings.batch_size
        if not self.settings.random_bkgd:
            return [None] * n
        return list(torch.rand(n, 3, generator=self.generator, device=self.device))

    def _backward(self, index: int, background: Tensor | None) -> tuple[Rendered, Tensor]:
        """Draw an image and leave its part of the gradient of the mean loss; return it, and that part of the loss."""
        shot = self.data.train[index]
        rendered = self._render(shot, index, background)
        loss = self._loss(rendered, shot, index)
        if self.device.type == "cpu":  # on a GPU, looking would wait for it: losses are looked at now and then
            self._losses.check(self.step, shot.camera.name, float(loss.detach()))
        if self.settings.batch_size > 1:
            loss = loss / self.settings.batch_size
        loss.backward()
        return rendered, loss.detach()

    def _add_up(self, loss: Tensor) -> Tensor:
        """Add up gradients over all processes; return the sum of their losses."""
        if self.ranks.size == 1:
            return loss
        fitted = [tensor for tensor in self.gaussians.tensors().values() if tensor.numel()]
        fitted += [each.values for each in (self.exposures, self.poses) if each]
        for tensor in fitted:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        loss = loss.reshape(1)
        self.ranks.add_up_all([*(tensor.grad for tensor in fitted if tensor.grad is not None), loss])
        return loss[0]

    def _render(self, shot: TrainingImage, index: int, background: Tensor | None) -> Rendered:
        s = self.settings
        try:
            return self._rasterizer(
                self.gaussians,
                shot.camera,
                sh_degree=self.sh_degree,
                background=background,
                antialiased=s.antialiased,
                pose=self.poses.pose(index) if self.poses else None,
            )
        except TrainingError as exc:  # it knows of no steps
            where = f"at step {self.step + 1} of {s.max_steps}, on image {shot.camera.name}"
            raise TrainingError(f"{exc} ({where})") from exc

    def _loss(self, rendered: Rendered, shot: TrainingImage, index: int) -> Tensor:
        s, colors = self.settings, rendered.colors
        if self.exposures:
            colors = self.exposures.apply(colors, index)
        counted, n = shot.n_counted, self._num_threads
        loss = photo_loss(colors, shot.rgb, shot.mask, s.ssim_lambda, n_counted=counted, num_threads=n)
        if s.opacity_reg or s.scale_reg:
            loss = loss + penalty(self.gaussians, s.opacity_reg, s.scale_reg)
        if self.exposures:
            loss = loss + self.exposures.penalty(index)
        return loss

    def _shrink(self, reason: str) -> None:
        """Leave half of the Gaussians, the most opaque ones, and never let more come.

        Raises:
            TrainingError: that would leave too few.
        """
        for tensor in self.gaussians.tensors().values():
            tensor.grad = None
        for fitted in (self.exposures, self.poses):
            if fitted:
                fitted.drop_gradients()
        n = len(self.gaussians)
        cap = min(self.strategy.cap_max, n) // 2
        if cap < FEWEST:
            raise TrainingError(
                f"out of memory on {self.device} at step {self.step + 1} with {n} Gaussians, and below {FEWEST} no "
                f"image comes of it: take a smaller max_side, or free memory there ({reason})"
            )
        self.strategy.cap_max = cap
        rows = torch.topk(self.gaussians.opacities.detach(), cap).indices.sort().values
        self.optimizer.keep(rows)
        self.strategy.kept(rows)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._notes.append(f"out of memory at {n} Gaussians: goes on with the {cap} most opaque, and no more than that")

    def _report(self, seconds: float) -> StepsDone:
        loss, n = self._losses.reported()
        speed = max(1, n) / max(seconds, 1e-9)
        left = (self.settings.max_steps - self.step) / speed
        return StepsDone(self.step, self.settings.max_steps, loss, speed, len(self.gaussians), left)

    def measured(self) -> MeasurementDone:
        """Return what the fit has come to; without held-out images, the views to look at are training ones."""
        begun = self._clock()
        held_out = self.data.held_out
        scores, previews = self._scores()
        self._seconds["measuring"] += self._clock() - begun
        mean = mean_score(scores) if len(held_out) else None
        metrics = Measurement(
            step=self.step,
            train_loss=self._losses.measured(self.step),
            psnr=mean.psnr if mean else None,
            ssim=mean.ssim if mean else None,
            l1=mean.l1 if mean else None,
            n_gaussians=len(self.gaussians),
            steps_per_s=self.step / max(self._seconds["steps"], 1e-9),
            memory_bytes=memory_in_use(self.device),
            opacity_mean=float(torch.sigmoid(self.gaussians.opacities.detach()).mean()),
            scale_median=float(torch.exp(self.gaussians.scales.detach()).median()),
            seconds=sum(self._seconds.values()),
        )
        return MeasurementDone(metrics, tuple(previews), 0)

    def _scores(self) -> tuple[list[Score], list[Preview]]:
        """Return the score of every image that is looked at, and, in the first process, the previews."""
        s, held_out = self.settings, self.data.held_out
        n_shown = min(MAX_PREVIEWS, len(self.data.train))
        shown = held_out if len(held_out) else [self.data.train[i] for i in range(n_shown)]
        begin, end = self.ranks.bounds(len(shown))
        n_previews = min(MAX_PREVIEWS, len(shown)) if self.ranks.first else 0
        scores, previews = measure(
            self.gaussians,
            self._rasterizer,
            shown,
            sh_degree=min(max(0, self.step - 1) // s.sh_degree_interval, s.sh_degree),  # of the last step
            antialiased=s.antialiased,
            expose=s.exposure_opt,
            numbers=range(begin, max(end, n_previews)),
        )
        own = [dataclasses.astuple(one) for one in scores[: end - begin]]
        rows = torch.tensor(own, dtype=torch.float64, device=self.device).view(-1, 3)
        return [Score(*row) for row in self.ranks.joined(rows, len(shown)).tolist()], previews

    def _flag(self, metrics: Measurement) -> str | None:
        if metrics.psnr is None or metrics.psnr >= self.settings.min_psnr:
            return None
        return (
            f"held-out images are drawn at {metrics.psnr:.1f} dB, below min_psnr {self.settings.min_psnr:g}: moving "
            "things, blur or wrong cameras do that; look at the previews"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain values, so that `weights_only` loading takes it.

        Raises:
            TrainingError: a loss was not finite; such a state is not worth keeping.
        """
        return {
            "losses": self._losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
            "exposures": self.exposures.state_dict() if self.exposures else None,
            "poses": self.poses.state_dict() if self.poses else None,
            "generator": {self.device.type: self.generator.get_state()},
            "step": self.step,
            "seconds": dict(self._seconds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` gave; the next step is the one that would have come."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
        if self.exposures:
            self.exposures.load_state_dict(state["exposures"])
        if self.poses:
            self.poses.load_state_dict(state["poses"])
        if self.device.type in state["generator"]:  # else it began on another kind of device, and draws anew
            self.generator.set_state(state["generator"][self.device.type])
        self.step = state["step"]
        self._seconds = dict(state["seconds"])
        self._losses.load_state_dict(state["losses"])


def _summary(gaussians: Gaussians) -> Tensor:
    """Return the number of Gaussians and the sum of the bits of each tensor, (7,) int64: other for other bits."""
    tensors = gaussians.tensors().values()
    sums = [tensor.detach().contiguous().view(torch.int32).sum(dtype=torch.int64) for tensor in tensors]
    return torch.stack([torch.full_like(sums[0], len(gaussians)), *sums])
