"""Serves the images of a fit in an order that the seed decides, from memory where they fit."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tasks.splatting.capture.pixels import bounded
from tasks.splatting.fit.scene import Scene, View, load_image
from tasks.splatting.loss.photo_loss import as_float
from tasks.splatting.render.cameras import Camera

MEMORY_BOUND = 2 * 1024**3  # bytes; more than that is read again when its turn comes
SIZE_MARGIN = 1.1  # Source: upstream gsplat examples/simple_trainer.py


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One image as the loss wants it."""

    camera: Camera
    rgb: Tensor  # (H, W, 3) uint8, on the device
    mask: Tensor | None  # (H, W) bool, True: counts
    n_counted: int | None = None  # pixels that count; None: not looked at yet

    @property
    def truth(self) -> Tensor:
        """Return (H, W, 3) float32 in [0, 1]."""
        return as_float(self.rgb)


class TrainingImages:
    """Images by their place in a list of views.

    Args:
        views: in the order that indices mean.
        max_side: longest side, pixels.
        device: where the images shall be.
        bound: bytes that may be kept.
    """

    def __init__(self, views: Sequence[View], max_side: int, device: torch.device, bound: int = MEMORY_BOUND) -> None:
        self.views, self._max_side, self._device, self._bound = tuple(views), max_side, device, bound
        self._kept: OrderedDict[int, TrainingImage] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> TrainingImage:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        loaded = load_image(self.views[index], self._max_side)
        mask = None if loaded.mask is None else torch.from_numpy(loaded.mask).to(self._device)
        n_counted = loaded.rgb.shape[0] * loaded.rgb.shape[1] if loaded.mask is None else int(loaded.mask.sum())
        rgb = torch.from_numpy(np.ascontiguousarray(loaded.rgb)).to(self._device)
        shot = TrainingImage(loaded.camera, rgb, mask, n_counted)
        self._kept[index] = shot
        self._bytes += _size(shot)
        while self._bytes > self._bound and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return shot

    @property
    def fits(self) -> bool:
        """Return whether all images can be kept."""
        sizes = (bounded(view.camera.width, view.camera.height, self._max_side) for view in self.views)
        masked = [4 if view.mask else 3 for view in self.views]
        return sum(w * h * n for (w, h), n in zip(sizes, masked, strict=True)) <= self._bound

    def read(self) -> Iterator[int]:
        """Read images ahead while they fit, yielding how many are read."""
        for index in range(len(self) if self.fits else 0):
            self[index]
            yield index + 1


def _size(shot: TrainingImage) -> int:
    return shot.rgb.numel() + (0 if shot.mask is None else shot.mask.numel())


def order_of(seed: int, n: int, step: int) -> int:
    """Return which of n images a step takes: every one once per pass, each pass in an order of its own."""
    return _permutation(seed, n, step // n)[step % n]


@lru_cache(maxsize=2)
def _permutation(seed: int, n: int, number: int) -> tuple[int, ...]:
    return tuple(int(index) for index in np.random.default_rng((seed, 1, number)).permutation(n))


def scene_size(scene: Scene) -> float:
    """Return the length that learning rates and sizes are relative to, world units."""
    return SIZE_MARGIN * scene.extent


def digest_of(scene: Scene) -> str:
    """Return one digest over images, masks, cameras and points, wherever they lie."""
    total = hashlib.blake2b(digest_size=16)
    for view in scene.views:
        c = view.camera
        total.update(f"{c.name} {c.width} {c.height} {c.fx!r} {c.fy!r} {c.cx!r} {c.cy!r}\n".encode())
        total.update(np.ascontiguousarray(c.world_to_camera, dtype=np.float64).tobytes())
        for path in (view.image, view.mask):
            total.update(path.read_bytes() if path else b"none")
    total.update(np.ascontiguousarray(scene.points).tobytes() + np.ascontiguousarray(scene.colors).tobytes())
    return total.hexdigest()
