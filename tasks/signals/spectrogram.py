"""Draws spectrograms and writes them as JPEG: time to the right, frequency upwards, power as colour."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.outside import check_file
from tasks.base.workspace import storage_errors
from tasks.signals.iq_files import read_layout
from tasks.signals.iq_layout import Layout, raw_layout, read_samples
from tasks.signals.params import SpectrogramParams, Window

COLUMNS_AT_ONCE = 64
POWER_FLOOR = 1e-20  # -200 dB: keeps digital silence finite, far below a float32 receiver's own noise


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording of I/Q and the frames that can be cut from it."""

    path: Path
    n_samples: int  # complex
    n_frames: int  # whole ones
    unused_samples: int  # at the end, too few for a frame
    layout: Layout
    sample_rate_hz: float

    @property
    def note(self) -> str | None:
        """What is wrong with the file, and that it ends inside a frame; None where there is nothing to say."""
        inside = (
            f"{self.path} ends inside a frame: made {self.n_frames} whole frame(s), "
            f"left out the last {self.unused_samples} of {self.n_samples} samples"
        )
        said = [note for note in (self.layout.note, inside if self.unused_samples else None) if note is not None]
        return "; ".join(said) or None


@dataclass(frozen=True, slots=True)
class Frame:
    """A stretch of a recording."""

    index: int  # from 0
    start_s: float  # since the start of the recording
    iq: NDArray[np.complex64]  # (frame_samples,)


@dataclass(frozen=True, slots=True)
class FrameImage:
    """One image on disk."""

    path: Path
    index: int
    start_s: float


def open_recording(path: Path, params: SpectrogramParams) -> Recording:
    """Say what a recording holds, from its size, its header or, where there are some, its SigMF metadata.

    Raises:
        DatasetError: no such file, one that cannot be used, an odd length (part of a sample), or not enough samples
            for one frame.
    """
    if not path.exists():
        raise DatasetError(f"found no recording, need a file of interleaved I/Q: {path}")
    n_bytes = check_file(path, DatasetError)
    layout = read_layout(path)
    n_samples = layout.n_samples
    if n_samples is None:
        if params.datatype != "auto":
            told = raw_layout(params.datatype)
            layout = replace(layout, name=told.name, stored=told.stored)
        if n_bytes % layout.sample_bytes:
            raise DatasetError(
                f"found {n_bytes} bytes, need a multiple of {layout.sample_bytes} ({layout.name}: I, then Q); "
                f"the file is cut inside a sample or holds another format: {path}"
            )
        n_samples = n_bytes // layout.sample_bytes
    params = at_rate(params, layout.sample_rate_hz or params.sample_rate_hz, path)
    length, hop = params.frame_samples, params.hop_samples
    if n_samples < length:
        raise DatasetError(
            f"found {n_samples} samples, need {length} for one frame of {params.frame_s} s "
            f"at {params.sample_rate_hz:g} Hz{f'; {layout.note}' if layout.note else f': {path}'}"
        )
    n_frames = 1 + (n_samples - length) // hop
    unused = max(0, n_samples - ((n_frames - 1) * hop + max(length, hop)))
    return Recording(path, n_samples, n_frames, unused, layout, params.sample_rate_hz)


def at_rate(params: SpectrogramParams, sample_rate_hz: float, path: Path) -> SpectrogramParams:
    """Return the parameters for a recording of another sample rate.

    Raises:
        DatasetError: a frame would be too short to make an image of.
    """
    if sample_rate_hz == params.sample_rate_hz:
        return params
    try:
        return SpectrogramParams.model_validate({**params.model_dump(), "sample_rate_hz": sample_rate_hz})
    except ValidationError as exc:
        raise DatasetError(f"{exc.errors()[0]['msg'].removeprefix('Value error, ')}: {path}") from exc


def read_frames(recording: Recording, params: SpectrogramParams) -> Iterator[Frame]:
    """Yield the whole frames one by one; memory holds one of them, however long the file is.

    Raises:
        DatasetError: a sample is not a finite number, or the file became shorter meanwhile.
    """
    for index in range(recording.n_frames):
        yield read_frame(recording, params, index)


def read_frame(recording: Recording, params: SpectrogramParams, index: int) -> Frame:
    """Return one frame; see `read_frames`."""
    params = at_rate(params, recording.sample_rate_hz, recording.path)
    start, length = index * params.hop_samples, params.frame_samples
    iq = read_samples(recording.path, recording.layout, start, length)
    where = f"frame {index} of {recording.path}"
    if len(iq) < length:
        raise DatasetError(f"found {len(iq)} samples, need {length}; the file shrank: {where}")
    if not np.isfinite(iq.view(np.float32)).all():
        raise DatasetError(f"found NaN or infinite samples, need finite I/Q: {where}")
    return Frame(index, start / params.sample_rate_hz, iq)


def spectrogram_db(iq: NDArray[np.complex64], params: SpectrogramParams) -> NDArray[np.float32]:
    """Return the power of each frequency over time, in dB; a tone of amplitude 1 has 0 dB.

    The same values as scipy.signal.stft with its defaults (zeros put around both ends) and a symmetric window.
    RFUAV's own code takes 10*log10 of the amplitude, half of these dB: scaled to an image's own range, the same
    colours. Source: RFUAV graphic/RawDataProcessor.py.

    Args:
        iq: (n,) samples, n >= n_fft.

    Returns:
        (n_fft, 1 + ceil(n / step)) float32. Row 0 is the highest frequency, row n_fft/2 - 1 is zero, the last is
        minus half the sample rate. One-sided: (n_fft/2 + 1, ...), the last row is zero.
    """
    half = params.n_fft // 2
    ends = (half, half + -len(iq) % params.step)  # scipy's `boundary` and `padded`
    signal = np.pad(iq if params.two_sided else iq.real, ends)
    stretches = np.lib.stride_tricks.sliding_window_view(signal, params.n_fft)[:: params.step]
    decibel = _decibel(stretches, _window(params.window, params.n_fft))
    n_rows = decibel.shape[1]
    # A transform has the positive frequencies first, then the negative ones.
    n_upper = (n_rows + 1) // 2 if params.two_sided else n_rows
    turned = np.empty(decibel.shape[::-1], dtype=np.float32)
    for part in (slice(0, n_upper), slice(n_upper, n_rows)):
        if part.stop > part.start:  # ten times as fast as NumPy's transposed copy
            cv2.rotate(decibel[:, part], cv2.ROTATE_90_COUNTERCLOCKWISE, dst=turned[part])
    return turned


def _decibel(stretches: NDArray[Any], window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 10*log10 of the power (columns, rows) of the transforms of (columns, n_fft) stretches of a signal.

    In blocks that stay in the processor's cache, and on one thread: torch.stft writes all windowed stretches and all
    transforms to memory, and torch's own threads took up to 16 s for 0.4 s of work where cores were shared.
    """
    is_complex = np.iscomplexobj(stretches)
    transform = np.fft.fft if is_complex else np.fft.rfft
    full_scale = np.float32(window.sum(dtype=np.float64) ** 2)  # a tone of amplitude 1 has 0 dB
    n_columns, n_fft = stretches.shape
    decibel = np.empty((n_columns, n_fft if is_complex else n_fft // 2 + 1), dtype=np.float32)
    for start in range(0, n_columns, COLUMNS_AT_ONCE):
        block = decibel[start : start + COLUMNS_AT_ONCE]
        values = transform(stretches[start : start + COLUMNS_AT_ONCE] * window, axis=1)
        power = values.real * values.real + values.imag * values.imag
        np.maximum(power / full_scale, POWER_FLOOR, out=power)
        cv2.log(power, dst=block)  # three times as fast as NumPy's
        block *= np.float32(10 / np.log(10))
    return decibel


def render(decibel: NDArray[np.float32], params: SpectrogramParams) -> NDArray[np.uint8]:
    """Return an image of `decibel`, its first row on top.

    Drawn fast, pixels are means of dB over their area, where matplotlib's imshow weighs with a Hanning kernel:
    weights trained on images drawn by matplotlib see the same scene, but not the same pixels.

    Args:
        decibel: (rows, columns).

    Returns:
        (height, width, 3) uint8, BGR as OpenCV has it.
    """
    if params.drawing == "matplotlib":
        return _draw_with_matplotlib(decibel, params)
    rows, columns = decibel.shape
    # In two steps: OpenCV averages over areas only where both sides shrink.
    small = cv2.resize(decibel, (min(params.width, columns), min(params.height, rows)), interpolation=cv2.INTER_AREA)
    sized = cv2.resize(small, (params.width, params.height), interpolation=cv2.INTER_LINEAR)
    low, high = _ends(small, params)
    span = max(high - low, 1e-6)  # digital silence has no range
    index = np.clip((sized - np.float32(low)) * np.float32(256 / span), 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(index, colour_table(params.colour_map)), dtype=np.uint8)


def _draw_with_matplotlib(decibel: NDArray[np.float32], params: SpectrogramParams) -> NDArray[np.uint8]:
    """Return what `imshow` draws over the whole of a figure, as RFUAV's images were made."""
    dpi = 100
    # A hair more than the size: matplotlib rounds down, and 113 / 100 * 100 is less than 113.
    fig = Figure(figsize=((params.width + 1e-3) / dpi, (params.height + 1e-3) / dpi), dpi=dpi)
    canvas = FigureCanvasAgg(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    low, high = _ends(decibel, params)
    ax.imshow(decibel, aspect="auto", cmap=_colour_map(params.colour_map), vmin=low, vmax=max(high, low + 1e-6))
    canvas.draw()
    rgba = np.asarray(canvas.buffer_rgba())  # (height, width, 4)
    return np.ascontiguousarray(rgba[:, :, 2::-1])


def _ends(decibel: NDArray[Any], params: SpectrogramParams) -> tuple[float, float]:
    """Return the dB at the ends of the colour map."""
    if params.db_range is not None:
        return params.db_range
    if params.percentiles == (0, 100):  # without sorting millions of values
        return float(decibel.min()), float(decibel.max())
    low, high = np.percentile(decibel, params.percentiles)
    return float(low), float(high)


@cache
def colour_table(name: str) -> NDArray[np.uint8]:
    """Return (256, 1, 3) uint8 BGR: matplotlib's table of that name; for parula, which it lacks, OpenCV's.

    Raises:
        ConfigError: the matplotlib that is installed has none of that name.
    """
    rgba = _colour_map(name)(np.arange(256) / 255, bytes=True)  # (256, 4)
    return np.ascontiguousarray(rgba[:, 2::-1].reshape(256, 1, 3))


def _colour_map(name: str) -> Colormap:
    if name.removesuffix("_r") == "parula":
        ramp = np.arange(256, dtype=np.uint8).reshape(256, 1)
        bgr = np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_PARULA))[:, 0]
        parula = ListedColormap(bgr[:, ::-1] / 255)
        return parula.reversed() if name.endswith("_r") else parula
    if name not in matplotlib.colormaps:
        raise ConfigError(f"found the colour map {name!r}, which matplotlib {matplotlib.__version__} does not have")
    return matplotlib.colormaps[name]


def write_spectrograms(path: Path, target: Path, params: SpectrogramParams) -> Iterator[FrameImage]:
    """Write a JPEG per frame of the recording at `path`, yielding each; the caller stages `target`.

    The file `a.iq` gives `a_f00.jpg`, `a_f01.jpg`, ...: a longer recording gets more digits, so names sort in time.
    `open_recording(path, params).note` says whether the file ends inside a frame.

    Raises:
        DatasetError: the file cannot be used; see `open_recording` and `read_frames`.
        StorageError: the image cannot be written.
    """
    recording = open_recording(path, params)
    for index in range(recording.n_frames):
        yield write_frame(recording, index, target, params)


def write_frame(recording: Recording, index: int, target: Path, params: SpectrogramParams) -> FrameImage:
    """Write the image of one frame and say where; see `write_spectrograms`."""
    frame = read_frame(recording, params, index)
    digits = max(2, len(str(recording.n_frames - 1)))
    out = target / f"{recording.path.stem}_f{index:0{digits}d}.jpg"
    write_image(out, spectrogram_db(frame.iq, params), params)
    return FrameImage(out, index, frame.start_s)


def write_image(path: Path, decibel: NDArray[np.float32], params: SpectrogramParams) -> None:
    """Write an image of `decibel` (rows, columns) as a JPEG, the folder made where it is missing.

    Raises:
        StorageError: it cannot be written.
    """
    _, data = cv2.imencode(".jpg", render(decibel, params), [cv2.IMWRITE_JPEG_QUALITY, params.quality])
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())


@cache
def _window(name: Window, n: int) -> NDArray[np.float32]:
    """Return (n,) symmetric: scipy.signal.windows gives the same by default."""
    if name == "boxcar":
        return np.ones(n, dtype=np.float32)
    if name == "blackman":
        return np.blackman(n).astype(np.float32)
    return (np.hamming(n) if name == "hamming" else np.hanning(n)).astype(np.float32)
