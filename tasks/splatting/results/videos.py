"""Writes videos and depth maps of a splat, and the list of its cameras."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.workspace import storage_errors, write_atomic, write_json
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer, Rendered
from tasks.tracking.mlflow_names import stem_as_name

CRF = 18
"""Of x264: the step at which few see the difference to the original."""

MAX_DEPTH_MAPS = 48
BT709 = 1  # primaries, transfer and matrix have this number in H.264, table E-3 to E-5


@dataclass(frozen=True, slots=True)
class Drawer:
    """A splat with all that is needed to draw it."""

    gaussians: Gaussians
    rasterizer: Rasterizer
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    antialiased: bool = False

    @torch.no_grad()
    def draw(self, camera: Camera, *, with_depth: bool = False) -> Rendered:
        """Return the image of one camera, outside any graph."""
        return self.rasterizer(
            self.gaussians,
            camera,
            sh_degree=self.gaussians.sh_degree,
            background=torch.tensor(self.background, device=self.gaussians.means.device),
            antialiased=self.antialiased,
            with_depth=with_depth,
        )

    def image(self, camera: Camera) -> NDArray[np.uint8]:
        """Return the image of one camera, (H, W, 3) RGB."""
        colors = self.draw(camera).colors.clamp(0, 1).mul(255).round()
        return np.asarray(colors.to(torch.uint8).cpu().numpy())


def write_video(drawer: Drawer, cameras: Sequence[Camera], path: Path, fps: int) -> Iterator[int]:
    """Write what the cameras see as H.264 that browsers play, yielding how many frames are written after each.

    Args:
        drawer: the splat.
        cameras: one per frame, all of one size, even in both directions.
        path: of the mp4; under another name until it is whole.
        fps: frames per second.

    Raises:
        StorageError: the file cannot be written.
    """
    tmp = path.with_name(path.name + ".tmp")
    with storage_errors(path):
        try:
            # The index goes first, so that a page can play the file while it loads.
            with av.open(str(tmp), "w", format="mp4", options={"movflags": "+faststart"}) as container:
                stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF), "preset": "medium"})
                stream.width, stream.height, stream.pix_fmt = cameras[0].width, cameras[0].height, "yuv420p"
                context = stream.codec_context
                context.color_primaries = context.color_trc = context.colorspace = BT709
                context.color_range = 1  # 16 to 235, as players expect
                for i, camera in enumerate(cameras):
                    frame = av.VideoFrame.from_ndarray(drawer.image(camera), format="rgb24")
                    container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=BT709)))
                    yield i + 1
                container.mux(stream.encode())
            tmp.replace(path)
        finally:
            tmp.unlink(missing_ok=True)


def write_depth_maps(drawer: Drawer, cameras: Sequence[Camera], folder: Path) -> Iterator[int]:
    """Write what is how far away, for up to MAX_DEPTH_MAPS of the cameras, yielding the number written after each.

    Of each camera: NAME.png, 16 bits, 0 where nothing is, else the depth in steps; NAME.jpg, the same to look at, near
    in red, far in blue. `depth.json` holds the length of a step of each, in world units, and the range.

    Raises:
        StorageError: a file cannot be written.
    """
    facts: dict[str, Any] = {}
    for i, camera in enumerate(some(cameras, MAX_DEPTH_MAPS)):
        depths = drawer.draw(camera, with_depth=True).depths
        assert depths is not None, "asked for"
        values = depths.cpu().double().numpy()
        name = f"{i:04}_{stem_as_name(camera.name)}"
        there = values > 0
        step = float(values.max(initial=0.0)) / 65535 or 1.0
        steps = np.where(there, np.maximum(np.round(values / step), 1), 0).astype(np.uint16)
        write_atomic(folder / f"{name}.png", _encoded(".png", steps))
        write_atomic(folder / f"{name}.jpg", _encoded(".jpg", _colored(values, there)))
        span = [float(values[there].min()), float(values.max())] if there.any() else None
        facts[f"{name}.png"] = {"camera": camera.name, "units_per_step": step, "range": span}
        yield i + 1
    write_json(folder / "depth.json", facts)


def write_cameras(cameras: Sequence[Camera], path: Path) -> None:
    """Write the cameras as the `cameras.json` of 3DGS's trainer, with more fields that its readers pass over.

    `position` and `rotation` lead from the camera to the world; `world_to_camera` is the way back.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = [
        {
            "id": i,
            "img_name": Path(camera.name).with_suffix("").as_posix(),
            "name": camera.name,
            "width": camera.width,
            "height": camera.height,
            "position": camera.center.tolist(),
            "rotation": camera.world_to_camera[:3, :3].T.tolist(),
            "fx": camera.fx,
            "fy": camera.fy,
            "cx": camera.cx,
            "cy": camera.cy,
            "world_to_camera": camera.world_to_camera.tolist(),
        }
        for i, camera in enumerate(cameras)
    ]
    write_json(path, rows)


def some(cameras: Sequence[Camera], most: int) -> list[Camera]:
    """Return at most so many of the cameras, evenly chosen, the first and the last among them."""
    if len(cameras) <= most:
        return list(cameras)
    return [cameras[i] for i in np.round(np.linspace(0, len(cameras) - 1, most)).astype(int)]


def _colored(depths: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) BGR of the depths, black where nothing is.

    Colours go by one over the depth, as differences near by matter more; the outermost 2 % on both sides share one.
    """
    if not there.any():
        return np.zeros((*depths.shape, 3), dtype=np.uint8)
    nearness = 1 / depths[there]
    low, high = np.percentile(nearness, [2, 98])
    level = np.zeros(depths.shape, dtype=np.uint8)
    level[there] = np.round(255 * np.clip((nearness - low) / max(high - low, 1e-12), 0, 1))
    image = cv2.applyColorMap(level, cv2.COLORMAP_TURBO)
    image[~there] = 0
    return np.asarray(image, dtype=np.uint8)


def _encoded(suffix: str, pixels: NDArray[Any]) -> bytes:
    """Return an image as the bytes of its file."""
    return bytes(cv2.imencode(suffix, pixels)[1])
