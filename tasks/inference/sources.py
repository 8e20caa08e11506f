"""Finds the images, videos or recordings to predict on, and yields their images as jobs for threads."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.base.errors import DatasetError, ImageError
from tasks.base.outside import check_file
from tasks.base.workspace import allowed_path
from tasks.images import video
from tasks.images.files import find_images
from tasks.images.images import IMAGE_SUFFIXES
from tasks.images.params import PrepareParams
from tasks.images.prepare import Rgb, bounded, read_prepared
from tasks.signals.iq_files import META, SAMPLE_SUFFIXES, find_recordings
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import Recording, at_rate, open_recording, read_frame, render, spectrogram_db

Kind = Literal["image", "folder", "glob", "video", "recording"]

VIDEO_SUFFIXES = frozenset(
    ".mp4 .mov .mkv .webm .avi .m4v .mpg .mpeg .ts .3gp .wmv .flv .ogv .mxf .h264 .hevc .mjpeg .y4m".split()
)
RECORDING_SUFFIXES = frozenset({*SAMPLE_SUFFIXES, META})
"""SigMF: the data, or the metadata beside them."""


@dataclass(frozen=True, slots=True)
class PendingImage:
    """One image to come."""

    path: Path
    time_s: float | None  # since the start of the video or recording
    pixels: Callable[[], Rgb]  # (H, W, 3), prepared; raises ImageError; called from a thread, once


@dataclass(frozen=True, slots=True)
class Source:
    """What was found at a path."""

    path: Path
    kind: Kind
    images: tuple[Path, ...] = ()  # of an image, a folder or a glob; sorted
    n_frames: int = 0  # of a video or recording, as its file says

    @property
    def timed(self) -> bool:
        """Whether its images follow each other in time."""
        return self.kind in {"video", "recording"}

    def total(self, every_n: int) -> int:
        """Return how many images there will be; of a video that is cut off, fewer come."""
        step = every_n if self.kind == "video" else 1
        return -(-self.n_frames // step) if self.timed else len(self.images)


def open_source(path: Path, spectrogram: SpectrogramParams) -> Source:
    """Say what a path means, before anything is decoded.

    Args:
        path: an image, a folder (all images below it), a glob such as `frames/**/*.jpg`, a video, or a recording of
            interleaved I/Q.
        spectrogram: how a recording is cut.

    Raises:
        DatasetError: nothing is there, no image is in it, or the file cannot be used.
        ConfigError: the path, or a symbolic link below it, leads outside the allowed roots.
    """
    if not path.expanduser().exists() and glob.has_magic(str(path)):
        return _globbed(path)
    found = allowed_path(path)
    if found.is_dir():
        images, n_other = find_images(found)
        if not images:
            raise DatasetError(f"found no image among {n_other} file(s), need at least one, in {path}")
        return Source(found, "folder", tuple(images))
    if not found.exists():
        raise DatasetError(f"found nothing at {path}, need an image, a folder, a video or a recording")
    check_file(found, DatasetError)
    suffix = found.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return Source(found, "image", (found,))
    if suffix in VIDEO_SUFFIXES:
        return Source(found, "video", n_frames=video.probe(found).n_packets)
    if suffix in RECORDING_SUFFIXES:
        recording = allowed_path(find_recordings(found)[0])
        return Source(recording, "recording", n_frames=open_recording(recording, spectrogram).n_frames)
    raise DatasetError(
        f"found a file {found.suffix or 'without a suffix'}, need an image ({_shown(IMAGE_SUFFIXES)}), a video "
        f"({_shown(VIDEO_SUFFIXES)}) or a recording of I/Q ({_shown(RECORDING_SUFFIXES)}): {path}"
    )


def _shown(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))


def _globbed(pattern: Path) -> Source:
    whole = pattern.expanduser()
    found = set(_expanded(Path(whole.anchor), whole.parts[1:] if whole.anchor else whole.parts))
    wanted = [path for path in sorted(found) if path.suffix.lower() in IMAGE_SUFFIXES]
    images = tuple(dict.fromkeys(allowed_path(path) for path in wanted))
    if not images:
        raise DatasetError(f"found no image among {len(found)} match(es), need at least one, for {pattern}")
    return Source(pattern, "glob", images)


def _expanded(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what matches as `glob` does, but `**` follows no links: in Python's own, one that leads up never ends."""
    if not parts:
        yield folder
        return
    head, rest = parts[0], parts[1:]
    if head == "**" and not rest:
        rest = ["*"]
    if head != "**" and not glob.has_magic(head):
        if os.path.lexists(folder / head):
            yield from _expanded(folder / head, rest)
        return
    if head == "**":
        yield from _expanded(folder, rest)
    for entry in _entries(folder):
        hidden = entry.name.startswith(".") and not head.startswith(".")
        if head == "**" and not hidden and entry.is_dir(follow_symlinks=False):
            yield from _expanded(folder / entry.name, parts)
        elif head != "**" and not hidden and fnmatchcase(entry.name, head) and (not rest or entry.is_dir()):
            yield from _expanded(folder / entry.name, rest)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except NotADirectoryError:
        return []
    except OSError as exc:
        raise DatasetError(f"cannot read the folder {folder}: {exc.strerror}") from exc


def jobs(
    source: Source, every_n: int, spectrogram: SpectrogramParams, prepare: PrepareParams, min_side: int | None
) -> Iterator[PendingImage]:
    """Yield a job per image, in order; a video is read as the jobs are taken, a recording as they are done.

    Args:
        source: as `open_source` gives it.
        every_n: of a video, every n-th image.
        spectrogram: how frames of a recording become images.
        prepare: the bounds of every image.
        min_side: as `read_prepared`.

    Raises:
        DatasetError: a video is damaged, or a recording is not what it was.
    """
    if source.kind == "video":
        for image in video.decode(source.path):
            if image.index % every_n == 0:
                yield PendingImage(source.path, image.time_s, partial(bounded, image.rgb(), prepare))
    elif source.kind == "recording":
        recording = open_recording(source.path, spectrogram)
        hop_s = at_rate(spectrogram, recording.sample_rate_hz, recording.path).hop_samples / recording.sample_rate_hz
        for index in range(recording.n_frames):
            yield PendingImage(source.path, index * hop_s, partial(_drawn, recording, index, spectrogram, prepare))
    else:
        for path in source.images:
            yield PendingImage(path, None, partial(read_prepared, path, prepare, min_side))


def _drawn(recording: Recording, index: int, spectrogram: SpectrogramParams, prepare: PrepareParams) -> Rgb:
    """Read a frame and draw it, in the thread that wants it: a frame takes 80 MB and more, drawing it more still."""
    try:
        frame = read_frame(recording, spectrogram, index)
    except DatasetError as exc:
        raise ImageError(str(exc)) from exc  # the other frames have their answers
    bgr = render(spectrogram_db(frame.iq, spectrogram), spectrogram)
    return bounded(np.ascontiguousarray(bgr[..., ::-1]), prepare)
