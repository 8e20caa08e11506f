"""Runs a fit in its folder: resumes it, and leaves Gaussians that anyone can load."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_pools.placement.disk import check_fits
from gpu_pools.stopping import never
from tasks.base.errors import PutBack, StopAsked
from tasks.base.progress import Note, Progress
from tasks.base.workspace import write_atomic, write_json
from tasks.run.checkpoint import Checkpoint, fingerprint_of, load_tensors, save_tensors
from tasks.run.resume_point import FINISHED
from tasks.splatting.fit.disk_need import fit_need
from tasks.splatting.fit.fit_events import (
    Done,
    Event,
    FitResult,
    Measurement,
    MeasurementDone,
    StepsDone,
    history_csv,
    measured_from,
    row_of,
)
from tasks.splatting.fit.initial_gaussians import start_gaussians
from tasks.splatting.fit.loop import Fit, FitData
from tasks.splatting.fit.presets import settings
from tasks.splatting.fit.scene import Scene, split
from tasks.splatting.fit.training_images import TrainingImages, digest_of, scene_size
from tasks.splatting.params import FREE_TO_CHANGE, SplatParams
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.device_rasterizer import n_threads
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer
from tasks.splatting.resume_point import CHECKPOINT
from tasks.training.parallel.helpers import Helpers
from tasks.training.parallel.ranks import Ranks

CHECKPOINT_SHARE = 0.03  # of the time, at most, goes into checkpoints
CHECKPOINT_EVERY_S = 60.0

GAUSSIANS, METRICS, EXPOSURES, CAMERAS = "gaussians.pt", "metrics.csv", "exposures.json", "cameras_refined.json"


class FitSession:
    """One fit, from a scene to a folder with Gaussians and history.

    Args:
        scene: as the fit shall see it, so normalised.
        folder: of this fit alone; a checkpoint in it is gone on from.
        params: as the run has them.
        device: to fit on.
        rasterizer: draws there.
        clock_ms: Unix time in milliseconds.
        clock: seconds, monotonic; times the fit and ends it.
        deadline: at this time of `clock` the fit ends by itself, with what it has; None: never.
        checkpoint_every_s: seconds between two writings of the state; more where writing takes long.
        stop_asked: looked at after every event; once it is true, the state goes to disk and `run` raises StopAsked.
        source: the folder that the scene was read from, where other processes read it too.
    """

    def __init__(
        self,
        scene: Scene,
        folder: Path,
        params: SplatParams,
        device: torch.device,
        *,
        rasterizer: Rasterizer,
        clock_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        deadline: float | None = None,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        stop_asked: Callable[[], bool] = never,
        source: Path | None = None,
    ) -> None:
        self.scene, self.folder, self.params, self.device = scene, folder, params, device
        self.settings = settings(params, device.type)
        self.history: list[MeasurementDone] = []
        self.result: FitResult | None = None
        self._rasterizer, self._clock_ms, self._clock, self._deadline = rasterizer, clock_ms, clock, deadline
        self._stop_asked, self._checkpoint_every_s = stop_asked, checkpoint_every_s
        self._source = source
        self._data: FitData | None = None
        self._digest: str | None = None
        self.checkpoint = Checkpoint(folder / CHECKPOINT, clock)

    @property
    def finished(self) -> bool:
        """Return whether the folder already holds the finished fit."""
        return (self.folder / FINISHED).is_file()

    def load_finished(self) -> None:
        """Take history and result of a fit that was finished earlier from its folder."""
        saved = json.loads((self.folder / FINISHED).read_text())
        self.history = [measured_from(row) for row in saved["history"]]
        metrics = Measurement(**saved["metrics"])
        self.result = FitResult(saved["ended"], metrics, saved["flagged"])

    def run(self) -> Iterator[Event]:
        """Fit to the end or the deadline, the state going to disk on the way.

        Raises:
            ConfigError: the checkpoint belongs to other parameters or other data.
            DatasetError, TrainingError, StorageError: as their names say.
            StopAsked: `stop_asked` became true; a session in the same folder goes on after the last step.
            PutBack: a host of several has to leave; a session in the same folder goes on likewise.
        """
        p = self.params
        if p.n_processes == 1:
            yield from self._run(None)
            return
        with Helpers(self._task(), p.n_processes, self.device, n_local=p.n_local) as helpers:
            yield from self._run(helpers)

    def _task(self) -> dict[str, Any]:
        """Return how another process opens this fit to compute a share of it."""
        return {
            "session": "tasks.splatting.fit.share:FitShare",
            "params_type": f"{SplatParams.__module__}:{SplatParams.__qualname__}",
            "params": self.params.model_dump(mode="json"),
            "dataset": str(self._source),
            "folder": str(self.folder),
            "cache": "",
        }

    def read_ahead(self) -> None:
        """Read the images that fit into the memory, in a process that helps another one."""
        for shots in (self.data.train, self.data.held_out):
            for _ in shots.read():
                pass

    def help(self, connect: Callable[[], Ranks]) -> None:
        """Compute a share of the fit of another process, which keeps what comes of it.

        Args:
            connect: waits until all are there; nothing is written from the other one's start until then.
        """
        saved = load_tensors(self.checkpoint.path) if self.checkpoint.path.is_file() else None
        fit = self._fit()
        if saved is not None:
            fit.load_state_dict(saved["fit"])
        fit.join(connect())
        with one_thread(self.device):
            for _ in fit.run():
                pass

    @property
    def data(self) -> FitData:
        """Return what is fitted to, and where it starts; made when it is first asked for."""
        if self._data is None:
            train, held_out = split(self.scene.views, self.params.test_every)
            self._data = FitData(
                TrainingImages(train, self.settings.max_side, self.device),
                TrainingImages(held_out, self.settings.max_side, self.device),
                self._start(),
                scene_size(self.scene),
            )
        return self._data

    def _run(self, helpers: Helpers | None) -> Iterator[Event]:
        saved = self.checkpoint.load(self._fingerprint()) if self.checkpoint.path.is_file() else None
        self._remove_leftovers()
        yield from self._read_images(self.data)
        with one_thread(self.device):
            fit = self._fit()
            if saved is not None:
                fit.load_state_dict(saved["fit"])
                self.history = [measured_from(row) for row in saved["history"]]
                yield Note(f"goes on after step {fit.step}, from {self.checkpoint.path}")
            else:
                yield Note(check_fits(fit_need(self.settings), self.folder))
            if helpers is not None:
                fit.join(helpers.join("fp32"))
                yield Note(f"fits in {fit.ranks.size} processes, each on a share of the images of every step")
            for event in fit.run():
                yield self._keep(fit, event)
                if self._stop_asked() and not (fit.done or isinstance(event, Done)):  # finishing is faster then
                    self._save(fit)
                    raise StopAsked(f"stopped after step {fit.step}, as asked")
                if helpers is not None and helpers.leaving and not fit.done:
                    self._save(fit)
                    raise PutBack(f"{helpers.leaving}: waits for its hosts again, its state is saved")
            self._finish(fit)

    def _fit(self) -> Fit:
        return Fit(
            self.data,
            self.settings,
            self._rasterizer,
            self.device,
            num_threads=n_threads(self.params),
            deadline=self._deadline,
            clock=self._clock,
        )

    def _start(self) -> Gaussians:
        return start_gaussians(self.scene.points, self.scene.colors, scene_size(self.scene), self.settings)

    def _read_images(self, data: FitData) -> Iterator[Event]:
        """Fill the memory with images."""
        total = len(data.train) + len(data.held_out)
        for before, shots in ((0, data.train), (len(data.train), data.held_out)):
            if not shots.fits:
                yield Note(f"{len(shots)} images do not fit into the memory set aside: they are read as they come")
            for n in shots.read():
                yield Progress("images", before + n, total)
                if self._stop_asked():
                    raise StopAsked("stopped while reading the images, as asked")

    def _keep(self, fit: Fit, event: Event) -> Event:
        """Put the state on disk when it is time; return the event to pass on."""
        if isinstance(event, MeasurementDone):
            event = dataclasses.replace(event, timestamp_ms=self._clock_ms())
            self.history.append(event)
        if isinstance(event, Done):
            self.result = event.result
        due = self.checkpoint.age_s >= max(self._checkpoint_every_s, self.checkpoint.cost_s / CHECKPOINT_SHARE)
        if due and isinstance(event, StepsDone | MeasurementDone) and not fit.done:
            self._save(fit)
        return event

    def _save(self, fit: Fit) -> None:
        state = {"fit": fit.state_dict(), "history": [row_of(measured) for measured in self.history]}
        self.checkpoint.save(state, self._fingerprint())

    def _remove_leftovers(self) -> None:
        """Remove the partial files of a killed attempt."""
        for path in self.folder.glob(".*.*.*"):
            if path.name.startswith((f".{CHECKPOINT}.", f".{GAUSSIANS}.", f".{METRICS}.", f".{FINISHED}.")):
                path.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """Return the digest of all that is fitted to."""
        if self._digest is None:
            self._digest = digest_of(self.scene)
        return self._digest

    def _fingerprint(self) -> dict[str, str]:
        # Checkpoints of before 2026-11-30 know of no batch: they are of one image.
        free = FREE_TO_CHANGE | ({"batch_size"} if self.params.batch_size == 1 else set())
        return fingerprint_of(self.params, free, self.digest)

    def _finish(self, fit: Fit) -> None:
        """Write the files people use, then the mark that says they are whole."""
        assert self.result is not None, "a fit that ends says with what"
        save_tensors(self.folder / GAUSSIANS, {"splats": fit.gaussians.detached().tensors()})
        write_atomic(self.folder / METRICS, history_csv(self.history).encode())
        names = [view.camera.name for view in fit.data.train.views]
        if fit.exposures:
            affine = fit.exposures.affine.detach().cpu().tolist()
            write_json(self.folder / EXPOSURES, dict(zip(names, affine, strict=True)))
        if fit.poses:
            cameras = fit.poses.corrected([view.camera for view in fit.data.train.views])
            write_json(self.folder / CAMERAS, {camera.name: camera.world_to_camera.tolist() for camera in cameras})
        write_json(
            self.folder / FINISHED,
            {
                **dataclasses.asdict(self.result),
                "history": [row_of(measured) for measured in self.history],
                "settings": dataclasses.asdict(self.settings),
                "data_digest": self._fingerprint()["data"],
            },
        )
        self.checkpoint.path.unlink(missing_ok=True)

    def gaussians(self) -> Gaussians:
        """Return what a finished fit came to, on the CPU.

        Raises:
            StorageError: the file is damaged.
        """
        return Gaussians(**load_tensors(self.folder / GAUSSIANS)["splats"])

    def cameras(self) -> list[Camera]:
        """Return the cameras of all views, by name; refined where the fit refined them."""
        path = self.folder / CAMERAS
        refined: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return [moved_to(view.camera, refined.get(view.camera.name)) for view in self.scene.views]


def moved_to(camera: Camera, world_to_camera: list[list[float]] | None) -> Camera:
    """Return the camera at another pose; None: as it is."""
    if world_to_camera is None:
        return camera
    return dataclasses.replace(camera, world_to_camera=np.array(world_to_camera, np.float64))


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Hold torch to one thread while the CPU's rasteriser uses all of them: two pools slow each other down."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
