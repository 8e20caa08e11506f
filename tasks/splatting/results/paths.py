"""Camera paths of the videos: around the scene, or along the cameras of the training."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.geometry.rotations import quaternion_of, rotation_matrix
from tasks.splatting.render.cameras import Camera
from tasks.splatting.results.focus import focus_of, up_of

FRAMES_PER_KEY = 6
"""A path through more cameras than one per so many frames would show the shaking of the hand that held them."""

WIDEST_GAP = np.pi * 5 / 6
"""Cameras that leave out more of the circle than this have not been behind the scene."""


def sized(camera: Camera, max_side: int) -> Camera:
    """Return the camera of an even width and height, its longest side at most `max_side` pixels."""
    scale = min(1.0, max_side / max(camera.width, camera.height))
    return camera.resized(*(max(2, 2 * round(side * scale / 2)) for side in (camera.width, camera.height)))


def turntable(cameras: Sequence[Camera], n_frames: int, max_side: int) -> list[Camera]:
    """Return a way around the point the cameras look at, at their mean height and distance, that ends where it begins.

    Where the cameras have seen the scene from one side only, it swings to and fro over that side.

    Raises:
        DatasetError: there is no camera.
    """
    lens = sized(_first(cameras), max_side)
    focus, up = focus_of(cameras), up_of(cameras)
    offsets = np.stack([camera.center - focus for camera in cameras])
    heights = offsets @ up
    flat = offsets - heights[:, None] * up  # (C, 3) in the plane across up
    ahead = flat[0] if np.linalg.norm(flat[0]) > 1e-9 else -cameras[0].world_to_camera[1, :3]
    ahead = ahead - up * (ahead @ up)
    if np.linalg.norm(ahead) < 1e-9:  # it looks straight down
        ahead = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    ahead = ahead / np.linalg.norm(ahead)
    side = np.cross(up, ahead)
    radius = max(np.linalg.norm(flat, axis=1).mean(), 0.1 * np.linalg.norm(offsets, axis=1).mean(), 1e-6)
    made = []
    for i, angle in enumerate(_angles(np.arctan2(flat @ side, flat @ ahead), n_frames)):
        eye = focus + heights.mean() * up + radius * (np.cos(angle) * ahead + np.sin(angle) * side)
        made.append(replace(lens, name=f"{i:05}", world_to_camera=_looking(eye, focus, up)))
    return made


def camera_path(cameras: Sequence[Camera], n_frames: int, max_side: int, *, closed: bool | None = None) -> list[Camera]:
    """Return a smooth way along the cameras in their order, at an even speed.

    Args:
        cameras: the stations; thinned out evenly where there are more than one per FRAMES_PER_KEY frames.
        n_frames: how many cameras to return.
        max_side: pixels.
        closed: back to the first camera at the end; None: where that is no farther than three usual steps.

    Raises:
        DatasetError: there is no camera.
    """
    lens = sized(_first(cameras), max_side)
    centers = np.stack([camera.center for camera in cameras])
    if closed is None:
        steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
        closed = len(cameras) > 3 and bool(np.linalg.norm(centers[-1] - centers[0]) <= 3 * np.median(steps))
    n_keys = min(len(cameras), max(4, n_frames // FRAMES_PER_KEY))
    keys = np.round(np.linspace(0, len(cameras) - 1, n_keys)).astype(int).tolist() + ([0] if closed else [])
    centers = centers[keys]
    quats = _one_way([quaternion_of(cameras[key].world_to_camera[:3, :3]) for key in keys])
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    # Cameras at one place take time as well, because the view turns there.
    knots = np.concatenate([[0.0], np.cumsum(steps + max(0.05 * steps.mean(), 1e-9) if len(steps) else steps)])
    made = []
    for i, time in enumerate(np.linspace(0, knots[-1], n_frames, endpoint=not closed)):
        segment = int(np.clip(np.searchsorted(knots, time, side="right") - 1, 0, max(len(knots) - 2, 0)))
        pose = np.eye(4)
        pose[:3, :3] = rotation_matrix(_slerp(quats, knots, segment, time))
        pose[:3, 3] = -pose[:3, :3] @ _spline(centers, knots, segment, time, closed=closed)
        made.append(replace(lens, name=f"{i:05}", world_to_camera=pose))
    return made


def _first(cameras: Sequence[Camera]) -> Camera:
    if not cameras:
        raise DatasetError("found no camera to lead a video along, need at least 1")
    return cameras[0]


def _angles(seen: NDArray[np.float64], n_frames: int) -> NDArray[np.float64]:
    """Return the angle of every frame, for cameras that stand at the angles `seen`; the first one's is 0."""
    turn = 2 * np.pi * np.arange(n_frames) / n_frames
    ordered = np.sort(seen)
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    widest = int(np.argmax(gaps))
    if gaps[widest] <= WIDEST_GAP:
        return turn
    half = max((2 * np.pi - gaps[widest]) / 2, np.pi / 18)
    middle = ordered[widest] + gaps[widest] + (2 * np.pi - gaps[widest]) / 2
    middle = (middle + np.pi) % (2 * np.pi) - np.pi
    return np.asarray(middle + half * np.sin(turn + np.arcsin(np.clip(-middle / half, -1, 1))))


def _looking(eye: NDArray[np.float64], target: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the world-to-camera matrix (4, 4) of an eye that looks at a target."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, up)
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(ahead, right), ahead])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


def _one_way(quats: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return the same rotations with signs that make each the nearer one to the one before."""
    found = quats[:1]
    for quat in quats[1:]:
        found.append(-quat if quat @ found[-1] < 0 else quat)
    return found


def _slerp(
    quats: list[NDArray[np.float64]], knots: NDArray[np.float64], segment: int, time: float
) -> NDArray[np.float64]:
    """Return the rotation at `time`, turning evenly between two stations."""
    if len(quats) == 1:
        return quats[0]
    share = (time - knots[segment]) / (knots[segment + 1] - knots[segment])
    a, b = quats[segment], quats[segment + 1]
    angle = np.arccos(np.clip(a @ b, -1, 1))
    if angle < 1e-6:
        return a
    return np.asarray((np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle))


def _spline(
    points: NDArray[np.float64], knots: NDArray[np.float64], segment: int, time: float, *, closed: bool
) -> NDArray[np.float64]:
    """Return the place at `time` on a cubic Hermite spline with Catmull-Rom tangents for uneven knots."""
    if len(points) == 1:
        return np.asarray(points[0])
    length = knots[segment + 1] - knots[segment]
    speeds = np.diff(points, axis=0) / np.diff(knots)[:, None]

    def tangent(i: int) -> NDArray[np.float64]:
        last = len(speeds)
        if not closed and i in (0, last):
            return speeds[0 if i == 0 else -1]
        before, after = speeds[(i - 1) % last], speeds[i % last]
        steps = np.diff(knots)
        a, b = steps[(i - 1) % last], steps[i % last]
        return np.asarray((b * before + a * after) / (a + b))

    u = (time - knots[segment]) / length
    place = (1 + 2 * u) * (1 - u) ** 2 * points[segment] + u * u * (3 - 2 * u) * points[segment + 1]
    slopes = u * (1 - u) ** 2 * tangent(segment) - u * u * (1 - u) * tangent(segment + 1)
    return np.asarray(place + length * slopes)
