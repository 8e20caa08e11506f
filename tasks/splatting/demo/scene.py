"""Generates a small room and a video along a known path, to test the pipeline with."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tasks.base.workspace import replacing, write_json
from tasks.splatting.demo.render import make_room, render
from tasks.splatting.render.cameras import Camera

N_FRAMES, WIDTH, HEIGHT, FPS = 60, 320, 240, 15
FOCAL_PX = 290.0


def make_demo_video(folder: Path, seed: int) -> tuple[Path, Path]:
    """Render the room as a video; return the mp4 and a cameras.json with every frame's true camera.

    Args:
        folder: made when missing; demo.mp4 and cameras.json are written there.
        seed: draws the textures; the path is always the same.

    Raises:
        StorageError: the folder cannot be written.
    """
    room, cameras = make_room(seed), demo_cameras()
    video, truth = folder / "demo.mp4", folder / "cameras.json"
    with replacing(video) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "14", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_count = 1  # the same bytes whatever the machine
        stream.time_base = Fraction(1, FPS)
        for index, camera in enumerate(cameras):
            frame = av.VideoFrame.from_ndarray(render(room, camera), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_json(truth, [_as_json(camera) for camera in cameras])
    return video, truth


def _as_json(camera: Camera) -> dict[str, object]:
    values = {name: getattr(camera, name) for name in ("name", "width", "height", "fx", "fy", "cx", "cy")}
    return {**values, "world_to_camera": camera.world_to_camera.tolist()}


def read_cameras(path: Path) -> list[Camera]:
    """Return the cameras of a cameras.json that `make_demo_video` wrote, one per frame."""
    return [
        Camera(**{**row, "world_to_camera": np.array(row["world_to_camera"])}) for row in json.loads(path.read_text())
    ]


def demo_cameras(n_frames: int = N_FRAMES) -> list[Camera]:
    """Return the cameras along three fifths of a circle, rising and sinking, that look at the things in the middle."""
    cameras = []
    for index in range(n_frames):
        part = index / max(1, n_frames - 1)
        angle = np.deg2rad(-108 + 216 * part)
        radius, height = 2.5 + 0.25 * np.cos(3 * angle), 1.35 + 0.45 * np.sin(2 * np.pi * 1.25 * part)
        position = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        target = np.array([0.1 * np.sin(5 * part), 0.1 * np.cos(4 * part), 0.45])
        matrix = looking_at(position, target)
        cameras.append(
            Camera(f"{index:05}", WIDTH, HEIGHT, FOCAL_PX, FOCAL_PX, WIDTH / 2, HEIGHT / 2, matrix),
        )
    return cameras


def looking_at(
    position: NDArray[np.float64], target: NDArray[np.float64], up: Sequence[float] = (0.0, 0.0, 1.0)
) -> NDArray[np.float64]:
    """Return world to camera (4, 4) of a camera at `position` that looks at `target`, held upright."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    rotation = np.array([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ position
    return matrix
