"""Makes the videos that the tests of frames and videos read."""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 128, 96


def wall(seed: int = 0, side: int = 640) -> NDArray[np.uint8]:
    """Return soft colour patches, (side, side, 3): something with corners everywhere."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def panned(shift_px: float, background: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a camera sees of a wall after moving `shift_px` to the right, (HEIGHT, WIDTH, 3)."""
    move = np.array([[1, 0, -shift_px], [0, 1, -20]], np.float64)
    return np.asarray(cv2.warpAffine(background, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR), np.uint8)


def write_video(
    path: Path,
    n_frames: int,
    image: Callable[[int], NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    rate: int = 10,
    rotation: int = 0,
    color_trc: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of `n_frames` images (H, W, 3); `times` are milliseconds, else they are evenly spaced."""
    first = image(0)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.thread_count = 1
        if color_trc is not None:
            stream.codec_context.color_trc = color_trc
        for index in range(n_frames):
            frame = av.VideoFrame.from_ndarray(image(index), format="rgb24")
            frame.pts = index * 1000 // rate if times is None else times[index]
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    # SVT-AV1, where root calls it, leaves its caller a real-time thread, before which nothing else gets the core.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if rotation:
        turn_by_metadata(path, rotation)
    return path


def turn_by_metadata(path: Path, degrees: int) -> None:
    """Write a display matrix into an mp4's only track: clockwise, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, number, duration, layer, volume: version 0
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = [cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
