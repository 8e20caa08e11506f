"""Draws the videos of a splat, and writes all of its files into one folder and one ZIP."""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.progress import Note, Progress
from tasks.base.workspace import MADE_WITH, copy_whole, replacing, staged
from tasks.splatting.params import ExportParams
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rasterizer
from tasks.splatting.results.gltf import write_gltf
from tasks.splatting.results.paths import camera_path, sized, turntable
from tasks.splatting.results.ply import finite, write_ply
from tasks.splatting.results.spz import write_spz
from tasks.splatting.results.videos import MAX_DEPTH_MAPS, Drawer, some, write_cameras, write_depth_maps, write_video
from tasks.splatting.results.viewer import MAX_GAUSSIANS, write_viewer

ARCHIVE = "splat.zip"
_EXPORT = "export"  # the name of the progress: of a file, a frame of a video, a depth map
PACKED_ALREADY = {".spz", ".mp4", ".png", ".jpg"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a ZIP can name: the same files give the same archive


@dataclass(frozen=True, slots=True)
class Exported:
    """What the folder holds; the last event."""

    folder: Path
    archive: Path  # in the folder, with all the other files
    files: tuple[str, ...]  # relative to the folder, without the archive
    n_gaussians: int
    n_left_out: int  # not finite


ExportEvent = Progress | Note | Exported


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be written."""

    gaussians: Gaussians  # finite ones
    cameras: tuple[Camera, ...]
    params: ExportParams
    drawn: Path | None
    antialiased: bool
    near_plane: float
    title: str


def draw_all(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    rasterizer: Rasterizer,
    params: ExportParams,
    folder: Path,
    *,
    antialiased: bool = False,
) -> Iterator[Progress]:
    """Write the videos and depth maps that `params` asks for, yielding progress: all of an export that needs a device.

    Args:
        gaussians: N of them, on the rasteriser's device.
        cameras: of the training, in their order.
        rasterizer: draws.
        params: which files to write.
        folder: replaced when all is written, and not before; nothing is left when the work ends early.
        antialiased: as it was fitted.

    Raises:
        DatasetError: there is no camera, or no finite Gaussian.
        StorageError: a file cannot be written.
    """
    kept = _finite(gaussians, cameras, folder)
    device = gaussians.means.device
    on_device = Gaussians(**{name: tensor.to(device) for name, tensor in kept.tensors().items()})
    drawer = Drawer(on_device, rasterizer, antialiased=antialiased)
    n_videos = params.turntable + params.camera_path
    n_maps = min(len(cameras), MAX_DEPTH_MAPS) if params.depth_maps else 0
    total = n_videos * _n_frames(params) + n_maps
    with staged(folder) as tmp:
        for done, _ in enumerate(_drawn(drawer, cameras, params, tmp), start=1):
            yield Progress(_EXPORT, done, total)


def export_all(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    params: ExportParams,
    folder: Path,
    *,
    drawn: Path | None = None,
    antialiased: bool = False,
    near_plane: float = 0.01,
    title: str = "Splat",
) -> Iterator[ExportEvent]:
    """Write everything `params` asks for, yielding progress and, last, what there is.

    Args:
        gaussians: N of them, on the CPU.
        cameras: of the training, in their order.
        params: which files to write.
        folder: replaced when all is written, and not before; nothing is left when the work ends early.
        drawn: folder of `draw_all`, whose files go in; None: none.
        antialiased: as it was fitted.
        near_plane: as it was fitted, world units.
        title: of the viewer's page.

    Raises:
        DatasetError: there is no camera, or no finite Gaussian.
        StorageError: a file cannot be written.
    """
    kept = _finite(gaussians, cameras, folder)
    n_left_out = len(gaussians) - len(kept)
    if n_left_out:
        yield Note(f"{n_left_out} of {len(gaussians)} Gaussians are not finite and left out")
    export = Export(kept, tuple(cameras), params, drawn, antialiased, near_plane, title)
    total = 3 + params.spz + params.gltf + params.viewer + (drawn is not None)
    with staged(folder) as tmp:
        for done, _ in enumerate(_files(export, tmp), start=1):
            yield Progress(_EXPORT, done, total)
        if params.viewer and len(kept) > MAX_GAUSSIANS:
            yield Note(f"viewer.html shows {MAX_GAUSSIANS} of {len(kept)} Gaussians, those that are seen most")
        files = tuple(sorted(path.relative_to(tmp).as_posix() for path in tmp.rglob("*") if path.is_file()))
        write_archive(tmp, files, tmp / ARCHIVE)
        yield Progress(_EXPORT, total, total)
    yield Exported(folder, folder / ARCHIVE, files, len(kept), n_left_out)


def _finite(gaussians: Gaussians, cameras: Sequence[Camera], folder: Path) -> Gaussians:
    """Return the Gaussians that are finite.

    Raises:
        DatasetError: there is none, or no camera.
    """
    kept, _ = finite(gaussians)
    if not cameras or not len(kept):
        raise DatasetError(
            f"found {len(cameras)} camera(s) and {len(kept)} finite Gaussian(s) of {len(gaussians)}"
            f" to export to {folder}, need at least 1 of each"
        )
    return kept


def write_archive(folder: Path, files: Sequence[str], path: Path) -> None:
    """Write files of a folder into a ZIP; the same files give the same bytes."""
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"splat/{name}", EPOCH)
            source = folder / name
            packed = source.suffix in PACKED_ALREADY
            entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            entry.file_size = source.stat().st_size  # tells the writer whether it needs ZIP64
            with source.open("rb") as data, archive.open(entry, "w") as to:
                shutil.copyfileobj(data, to, 1 << 20)


def _n_frames(params: ExportParams) -> int:
    return max(1, round(params.seconds * params.fps))


def _drawn(drawer: Drawer, cameras: Sequence[Camera], params: ExportParams, folder: Path) -> Iterator[str]:
    """Draw file after file, yielding its name after each frame and each depth map."""
    n_frames = _n_frames(params)
    for name, wanted, way in (
        ("turntable.mp4", params.turntable, turntable),
        ("camera_path.mp4", params.camera_path, camera_path),
    ):
        if wanted:
            for _ in write_video(drawer, way(cameras, n_frames, params.max_side), folder / name, params.fps):
                yield name
    if params.depth_maps:
        chosen = [sized(camera, params.max_side) for camera in some(cameras, MAX_DEPTH_MAPS)]
        for _ in write_depth_maps(drawer, chosen, folder / "depth"):
            yield "depth"


def _files(export: Export, folder: Path) -> Iterator[str]:
    """Write file after file, yielding the name of each."""
    params, kept = export.params, export.gaussians
    write_cameras(export.cameras, folder / "cameras.json")
    yield "cameras.json"
    write_ply(kept, folder / "splat.ply")
    yield "splat.ply"
    if params.spz:
        write_spz(kept, folder / "splat.spz", antialiased=export.antialiased)
        yield "splat.spz"
    if params.gltf:
        write_gltf(kept, folder / "splat.glb", export.cameras)
        yield "splat.glb"
    if params.viewer:
        write_viewer(
            kept,
            export.cameras,
            folder / "viewer.html",
            antialiased=export.antialiased,
            near_plane=export.near_plane,
            title=export.title,
        )
        yield "viewer.html"
    if export.drawn is not None:
        leave_out = shutil.ignore_patterns(MADE_WITH)
        shutil.copytree(export.drawn, folder, ignore=leave_out, copy_function=copy_whole, dirs_exist_ok=True)
        yield "videos"
