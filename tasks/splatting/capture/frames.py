"""Chooses frames of a video that are sharp, evenly spaced in time, and show something new."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.base.progress import Note, Progress
from tasks.base.workspace import staged
from tasks.images.images import write_jpeg
from tasks.images.video import TimedImage, VideoInfo, decode, probe
from tasks.splatting.capture.frame_table import IMAGES, FrameRow, FramesReport, check_enough, write_table
from tasks.splatting.capture.photos import extract_photos
from tasks.splatting.capture.pixels import JPEG_QUALITY, shrunk
from tasks.splatting.capture.sharpness import Grey, ImageQuality, look, same_view
from tasks.splatting.params import FramesParams
from tasks.splatting.resume_point import FRAMES_TABLE

FrameEvent = Progress | Note | FramesReport

MAX_FRAMES = 5000

MAX_CANDIDATES = 60
"""Images of one window that are looked at; more would cost time and find hardly a sharper one."""

_PROGRESS_EVERY = 25  # decoded images


def extract_frames(source: Path, folder: Path, params: FramesParams) -> Iterator[FrameEvent]:
    """Yield how far it is and what to know, at last a FramesReport; `folder` then holds images/ and frames.csv.

    A video is decoded once, with one candidate in memory; of a folder all photographs are taken, n_frames of them if
    there are more.

    Args:
        source: a video file, or a folder of photographs.
        folder: appears when all is done, and replaces an earlier one.
        params: how many, how large, which.

    Raises:
        DatasetError: the source cannot be read, is cut off before its first image, or fewer than three images can
            be used: black, flat, or all taken from one place.
        StorageError: the folder cannot be written.
    """
    with staged(folder) as target:
        (target / IMAGES).mkdir()
        take = extract_photos if source.is_dir() else _extract_from_video
        report = yield from take(source, target, params)
        write_table(target / FRAMES_TABLE, report.rows)
    yield report.moved_to(folder)


def _extract_from_video(
    source: Path, target: Path, params: FramesParams
) -> Generator[Progress | Note, None, FramesReport]:
    info = probe(source)
    n_taken, notes = n_windows(info, params)
    yield from (Note(text) for text in notes)
    choice = _Choice(target / IMAGES, params)
    width_s = info.duration_s / n_taken
    slack_s = 0.1 * info.duration_s / info.n_packets  # time stamps are rounded, down as often as up
    step = math.ceil(info.n_packets / n_taken / MAX_CANDIDATES) if params.sharpest else 1
    n_decoded, last_s = 0, 0.0
    for image in decode(source):
        n_decoded, last_s = n_decoded + 1, image.time_s
        window = min(n_taken - 1, int((image.time_s + slack_s) / width_s))
        if params.sharpest and image.index % step == 0:
            choice.offer(image, window)
        elif not params.sharpest and window != choice.window:
            # The first one past the middle, give or take half the time between two.
            if image.time_s >= (window + 0.5) * width_s - 0.5 * info.duration_s / info.n_packets:
                choice.offer(image, window)
        if n_decoded % _PROGRESS_EVERY == 0:
            yield Progress("frames", min(n_decoded, info.n_packets), info.n_packets)
    choice.close()
    check_enough(choice.rows, len(choice.names), source)
    yield Progress("frames", info.n_packets, info.n_packets)
    yield from (Note(text) for text in _what_is_missing(info, n_decoded, last_s, n_taken, choice))
    return FramesReport(target / IMAGES, tuple(choice.names), tuple(choice.rows))


def n_windows(info: VideoInfo, params: FramesParams) -> tuple[int, list[str]]:
    """Return into how many equal times a video is cut, and what a person should know of it."""
    notes = []
    if info.hdr is not None:
        notes.append(
            f"{info.path.name} is an HDR video ({info.hdr}, {info.bits} bit): it is read as standard range, colours "
            "may look flat; film in standard range for true ones"
        )
    wanted = params.n_frames
    if params.frames_per_second is not None:
        wanted = max(1, round(info.duration_s * params.frames_per_second))
        if wanted > MAX_FRAMES:
            notes.append(
                f"{params.frames_per_second:g} images a second of {info.duration_s:.0f} s are {wanted}; "
                f"{MAX_FRAMES} are taken, evenly spaced"
            )
            wanted = MAX_FRAMES
    if wanted > info.n_packets:
        notes.append(f"{wanted} images were asked for, {info.path.name} has {info.n_packets}")
    return min(wanted, info.n_packets), notes


def _what_is_missing(info: VideoInfo, n_decoded: int, last_s: float, n_windows: int, choice: "_Choice") -> list[str]:
    notes = []
    n_same = sum(row.reason.startswith("same view") for row in choice.rows)
    if n_same:
        notes.append(f"{n_same} of {n_windows} images were left out: they show the same view as the one before")
    if n_decoded < 0.98 * info.n_packets:
        notes.append(f"{info.path.name} is damaged: {n_decoded} of its {info.n_packets} images could be decoded")
    if info.promised_s is not None and last_s < 0.95 * info.promised_s - 1:
        notes.append(
            f"{info.path.name} ends early: its header says {info.promised_s:.0f} s, images come for {last_s:.0f} s"
        )
    return notes


@dataclass(slots=True)
class _Choice:
    """What has been chosen so far, and the best candidate of the window that is open."""

    images: Path
    params: FramesParams
    rows: list[FrameRow] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    window: int = -1
    _last: tuple[int, Grey] | None = None  # index and copy of the last one written
    _best: tuple[int, ImageQuality, NDArray[np.uint8]] | None = None  # row, look and pixels of the candidate

    def offer(self, image: TimedImage, window: int) -> None:
        """Look at an image; keep it as the candidate of its window if it is the sharpest there."""
        if window != self.window:
            self.close()
            self.window = window
        rgb = image.rgb()
        seen = look(rgb)
        reason = seen.flaw or "less sharp than another of its window"
        self.rows.append(FrameRow(image.index, image.time_s, seen.sharpness, False, reason, ""))
        if not seen.flaw and (self._best is None or seen.sharpness > self._best[1].sharpness):
            self._best = (len(self.rows) - 1, seen, shrunk(rgb, self.params.max_side))

    def close(self) -> None:
        """Write the candidate of the open window, unless it shows what the last one written shows."""
        if self._best is None:
            return
        at, seen, rgb = self._best
        row = self.rows[at]
        if self.params.drop_duplicates and self._last is not None and same_view(self._last[1], seen.grey):
            self.rows[at] = _told(row, f"same view as frame {self._last[0]}")
        else:
            name = f"frame_{row.index:06}.jpg"
            write_jpeg(self.images / name, rgb, JPEG_QUALITY)
            self.names.append(name)
            self.rows[at] = _told(
                row, "sharpest of its window" if self.params.sharpest else "middle of its window", name
            )
            self._last = (row.index, seen.grey)
        self._best = None


def _told(row: FrameRow, reason: str, name: str = "") -> FrameRow:
    return FrameRow(row.index, row.time_s, row.sharpness, bool(name), reason, name)
