"""Reads videos: their properties, the time of each frame, and the frames in order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import check_file, open_file

Rgb = NDArray[np.uint8]

FORMATS = frozenset(
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi mpegts mpeg flv asf ogg mxf ivf h264 hevc m4v mjpeg yuv4mpegpipe".split()
)
"""Containers that are read. Playlists and lists of files stay shut: they name other files and hosts to open."""

_HDR = {16: "PQ", 18: "HLG"}  # ITU-T H.273, transfer characteristics


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video's packets say of it, without any image decoded."""

    path: Path
    width: int  # pixels as stored, before any rotation
    height: int
    codec: str
    n_packets: int  # images there should be
    duration_s: float  # from the first image to the end of the last
    promised_s: float | None  # what the header says; longer than duration_s where the end is cut off
    bits: int  # per channel
    hdr: str | None  # "HLG" or "PQ"; None: standard range


@dataclass(frozen=True, slots=True)
class TimedImage:
    """A decoded image that becomes pixels only when asked: most are looked at by their time alone."""

    index: int
    time_s: float  # since the first one
    rgb: Callable[[], Rgb]  # (H, W, 3), turned upright; to be called before the next image is taken


def probe(path: Path) -> VideoInfo:
    """Return what a video is, by reading all of its packets: headers and counts of frames are often wrong.

    Raises:
        DatasetError: it is no video, is cut off before it can be opened, or has no image.
    """
    check_file(path, DatasetError)
    try:
        # Only local files: containers can name hosts.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if container.format.name not in FORMATS:
                raise DatasetError(f"{path} is a {container.format.long_name}, need a video such as mp4, mov or mkv")
            if not container.streams.video:
                raise DatasetError(f"{path} holds no images, only {_kinds(container)}; need a video")
            return _info(path, container)
    except (av.error.FFmpegError, OSError) as exc:
        raise DatasetError(_unopenable(path, exc)) from exc


def _kinds(container: av.container.InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _unopenable(path: Path, exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno in {1, 2, 13, 21} and not isinstance(exc, av.error.InvalidDataError):
        return f"cannot open {path}: {exc.strerror}"
    size = path.stat().st_size
    if size == 0:
        return f"empty file, 0 bytes: {path}; need a video"
    with open_file(path, DatasetError) as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return (
            f"truncated: {path} ({size} bytes) begins as an mp4 or mov but its index (moov) is missing, so no image "
            "can be found; copy it again, or end the recording properly"
        )
    return f"not a video, or its beginning is damaged ({size} bytes): {path}"


def _info(path: Path, container: av.container.InputContainer) -> VideoInfo:
    stream = container.streams.video[0]
    times: list[int] = []
    n_packets, longest = 0, 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            n_packets += 1
            longest = max(longest, packet.duration or 0)
            if packet.pts is not None:
                times.append(packet.pts)
    except av.error.FFmpegError:
        pass  # cut off: the frames before are used
    if n_packets == 0:
        raise DatasetError(f"{path} holds no image: 0 frames in its {stream.codec_context.name} stream")
    rate = float(stream.average_rate or stream.guessed_rate or 30)
    if len(times) == n_packets and stream.time_base is not None:
        duration = float((max(times) - min(times) + longest) * stream.time_base)
    else:
        duration = n_packets / rate
    promised = float(container.duration / av.time_base) if container.duration else None
    context, pixel = stream.codec_context, stream.codec_context.format
    return VideoInfo(
        path=path,
        width=context.width,
        height=context.height,
        codec=context.name,
        n_packets=n_packets,
        duration_s=max(duration, 1e-3),
        promised_s=promised,
        bits=pixel.components[0].bits if pixel is not None else 8,
        hdr=_HDR.get(int(context.color_trc or 0)),
    )


def decode(path: Path) -> Iterator[TimedImage]:
    """Yield the images of a video in the order they are shown, one in memory at a time.

    OpenCV decodes; where it opens a file and no image comes, as with AV1, PyAV does.
    """
    came = False
    for image in _with_opencv(path):
        came = True
        yield image
    if not came:
        yield from _with_pyav(path)


def _with_opencv(path: Path) -> Iterator[TimedImage]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        index, first, last = 0, 0.0, 0.0
        interval_s = 1 / (capture.get(cv2.CAP_PROP_FPS) or 30)
        while capture.grab():
            time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # right after grab, also for varying frame rates
            if index == 0:
                first = time_s
            elif time_s <= last:  # a stream without a container has no times
                time_s = last + interval_s
            last = time_s

            def rgb() -> Rgb:
                done, bgr = capture.retrieve()
                if not done:
                    raise DatasetError(f"an image of {path} cannot be decoded")
                return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

            yield TimedImage(index, time_s - first, rgb)
            index += 1
    finally:
        capture.release()


def _with_pyav(path: Path) -> Iterator[TimedImage]:
    with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or stream.guessed_rate or 30)
        first: float | None = None
        try:
            for index, frame in enumerate(container.decode(stream)):
                time_s = frame.time if frame.time is not None else index / rate
                first = time_s if first is None else first
                yield TimedImage(index, time_s - first, lambda frame=frame: _upright(frame))  # type: ignore[misc]
        except av.error.FFmpegError:
            return  # damaged or cut off: as OpenCV, keep what came


def _upright(frame: av.VideoFrame) -> Rgb:
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy counts
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))
