"""Writes the report of a preparation: contact sheet, sharpness over time, camera path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.base.workspace import staged, write_atomic
from tasks.images.images import encode_jpeg
from tasks.splatting.capture.frame_table import IMAGES, FrameRow, read_table
from tasks.splatting.capture.photos import photographs
from tasks.splatting.capture.pixels import read_stored, shrunk
from tasks.splatting.fit.scene import Scene, normalized, read_scene
from tasks.splatting.poses.pose_facts import PoseReport
from tasks.splatting.resume_point import FRAMES_TABLE

CONTACT_SHEET, SHARPNESS, CAMERAS = "contact_sheet.jpg", "sharpness.png", "cameras.png"

_BLUE, _ORANGE, _GREY, _INK = (
    "#0072B2",
    "#E69F00",
    "#B8B8B8",
    "#222222",
)  # Okabe and Ito 2008: safe for colour-blind eyes
_CELL_PX, _GAP_PX = 160, 6
_MAX_CELLS = 60
_MAX_POINTS = 20_000
_DPI = 130


def pose_metrics(report: PoseReport) -> dict[str, float]:
    """Return the figures of the poses by name; what the source does not say is left out."""
    figures: dict[str, float | None] = {
        "registered": report.registered,
        "pictures": report.total,
        "registered_share": report.share,
        "reprojection_error_px": report.reprojection_error_px,
        "track_length": report.track_length,
        "points": report.points,
        "models": report.n_models,
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def pose_markdown(report: PoseReport) -> str:
    """Return a table of the figures, and the names of images without a pose."""
    rows = [("images placed", f"{report.registered} of {report.total} ({report.share:.0%})")]
    if report.reprojection_error_px is not None:
        rows.append(("mean reprojection error", f"{report.reprojection_error_px:.2f} px"))
    rows.append(("points", f"{report.points:,}"))
    if report.track_length is not None:
        rows.append(("images a point is seen in", f"{report.track_length:.1f}"))
    if report.n_models > 1:
        rows.append(("models", f"{report.n_models}, the largest is used"))
    text = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    if report.missing:
        shown = ", ".join(f"`{name}`" for name in report.missing[:20])
        more = f" and {len(report.missing) - 20} more" if len(report.missing) > 20 else ""
        text += f"\n\nWithout a pose: {shown}{more}"
    return text + "\n"


def write_pose_report(report: PoseReport, frames: Path, folder: Path) -> list[Path]:
    """Write the images of a preparation; return their paths.

    Args:
        report: of the poses.
        frames: what `extract_frames` left, for the sharpness; without a frames.csv there is none of it.
        folder: appears when all is done, and replaces an earlier one.

    Raises:
        DatasetError: the scene cannot be read.
    """
    scene = read_scene(report.scene)
    table = frames / FRAMES_TABLE
    with staged(folder) as target:
        images = photographs(frames / IMAGES) if table.is_file() else [view.image for view in scene.views]
        write_atomic(target / CONTACT_SHEET, encode_jpeg(contact_sheet(images, set(report.missing)), 88))
        _save(camera_figure(scene), target / CAMERAS)
        rows = read_table(table) if table.is_file() else []
        if rows:
            _save(sharpness_figure(rows, set(report.missing)), target / SHARPNESS)
    return sorted(folder.iterdir())


def contact_sheet(paths: Sequence[Path], missing: set[str]) -> NDArray[np.uint8]:
    """Return a sheet of at most 60 of the images, evenly chosen; an orange frame: has no pose."""
    step = max(1.0, len(paths) / _MAX_CELLS)
    chosen = [paths[int(index * step)] for index in range(min(len(paths), _MAX_CELLS))]
    cells = [_cell(shrunk(read_stored(path), _CELL_PX), path.name in missing) for path in chosen]
    height, width = max(cell.shape[0] for cell in cells), max(cell.shape[1] for cell in cells)
    n_columns = min(len(cells), 10)
    n_rows = -(-len(cells) // n_columns)
    sheet = np.full((n_rows * (height + _GAP_PX) + _GAP_PX, n_columns * (width + _GAP_PX) + _GAP_PX, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = _GAP_PX + index // n_columns * (height + _GAP_PX), _GAP_PX + index % n_columns * (width + _GAP_PX)
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def _cell(rgb: NDArray[np.uint8], missing: bool) -> NDArray[np.uint8]:
    if missing:
        cv2.rectangle(rgb, (0, 0), (rgb.shape[1] - 1, rgb.shape[0] - 1), (230, 159, 0), 5)
    return rgb


def sharpness_figure(rows: list[FrameRow], missing: set[str]) -> Figure:
    """Return a figure of how sharp every image is that was looked at, and which were taken."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    timed = all(row.time_s is not None for row in rows)
    at = np.array([row.time_s if row.time_s is not None else row.index for row in rows], float)
    sharpness = np.array([row.sharpness for row in rows])
    chosen = np.array([row.chosen for row in rows])
    lost = np.array([row.name in missing for row in rows])
    axes.plot(at, sharpness, color=_GREY, linewidth=0.8, zorder=1)
    _dots(axes, at, sharpness, ~chosen, _GREY, "not taken", 6)
    _dots(axes, at, sharpness, chosen & ~lost, _BLUE, "taken", 16)
    _dots(axes, at, sharpness, chosen & lost, _ORANGE, "taken, no pose", 24)
    axes.set_ylim(0, 1.15 * sharpness.max())
    axes.set_xlabel("time (s)" if timed else "photograph")
    axes.set_ylabel("sharpness")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper right", fontsize=8)
    return figure


def _dots(
    axes: Axes,
    at: NDArray[np.float64],
    height: NDArray[np.float64],
    which: NDArray[np.bool_],
    color: str,
    label: str,
    size: int,
) -> None:
    if which.any():
        axes.scatter(at[which], height[which], s=size, color=color, label=f"{label} ({which.sum()})", zorder=2)


def camera_figure(scene: Scene) -> Figure:
    """Return a figure of the points and the way of the cameras, from the side and from above."""
    world, _ = normalized(scene)
    centers = world.centers
    ahead = np.array([view.camera.world_to_camera[2, :3] for view in world.views])
    points, colors = _seen(world)
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    reach = float(np.abs(np.concatenate([centers, points])).max()) if len(points) else 1.2
    for position, (elevation, azimuth, title) in enumerate([(22, -60, "from the side"), (89.9, -90, "from above")], 1):
        axes: Any = figure.add_subplot(1, 2, position, projection="3d")
        axes.scatter(*points.T, s=1.2, c=colors, linewidths=0, depthshade=False)
        axes.plot(*centers.T, color=_ORANGE, linewidth=0.8)
        axes.scatter(*centers.T, s=8, color=_ORANGE, depthshade=False)
        axes.quiver(*centers.T, *ahead.T, length=0.18 * reach, color=_BLUE, linewidth=0.7)
        axes.view_init(elev=elevation, azim=azimuth)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
        axes.set_box_aspect((1, 1, 1), zoom=1.7)
        axes.set_axis_off()
        axes.set_title(f"{len(centers)} cameras, {title}" if position == 1 else title, color=_INK, fontsize=10)
    return figure


def _seen(world: Scene) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return points and colours in [0, 1] without the farthest twentieth, which would make all else small."""
    if not len(world.points):
        return world.points, np.zeros((0, 3))
    distances = np.linalg.norm(world.points - np.median(world.points, 0), axis=1)
    near = np.flatnonzero(distances <= np.quantile(distances, 0.95))
    near = near[:: max(1, len(near) // _MAX_POINTS)]
    return world.points[near], world.colors[near] / 255


def _save(figure: Figure, path: Path) -> None:
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_figure(file, format="png", dpi=_DPI)
