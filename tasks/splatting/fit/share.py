"""What a process computes that helps another one to fit."""

from collections.abc import Callable
from pathlib import Path

import torch

from tasks.splatting.fit.scene import normalized, read_scene
from tasks.splatting.fit.session import FitSession
from tasks.splatting.params import SplatParams
from tasks.splatting.render.device_rasterizer import rasterizer_on
from tasks.training.parallel.ranks import Ranks


class FitShare:
    """A share of a fit in the folder of another process, as `tasks.training.parallel.helper` opens it.

    Args:
        scene: the folder of the scene.
        folder: of the fit, whose checkpoint is read.
        params: as the run has them.
        device: of this process.
        cache: not used here.
        clock_ms: Unix time in milliseconds.
    """

    def __init__(
        self,
        scene: Path,
        folder: Path,
        params: SplatParams,
        device: torch.device,
        *,
        cache: Path,
        clock_ms: Callable[[], int],
    ) -> None:
        world, _ = normalized(read_scene(scene))
        rasterizer = rasterizer_on(device, params)
        self._session = FitSession(world, folder, params, device, rasterizer=rasterizer, clock_ms=clock_ms)

    def find_data(self) -> None:
        """Read the images that fit into the memory."""
        self._session.read_ahead()

    def help(self, precision: str, connect: Callable[[], Ranks]) -> None:
        """Compute a share of the fit; see `FolderSession.help`.

        Args:
            precision: fits have one alone, fp32.
            connect: waits until all processes are there.
        """
        self._session.help(connect)
