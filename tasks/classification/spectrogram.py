"""Raw radio recordings become spectrogram pictures: time to the right, frequency upwards, power as colour."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from tasks.classification.signal_params import SpectrogramParams, Window
from tasks.errors import DatasetError
from tasks.workspace import storage_errors

SAMPLE_BYTES = 8  # one float32 each for I and Q, little-endian
POWER_FLOOR = 1e-20  # -200 dB: keeps digital silence finite, far below a float32 receiver's own noise


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of interleaved float32 I/Q and the frames that can be cut from it."""

    path: Path
    n_samples: int  # complex
    n_frames: int  # whole ones
    unused_samples: int  # at the end, too few for a frame

    @property
    def note(self) -> str | None:
        """One sentence when the file ends inside a frame, else None."""
        if not self.unused_samples:
            return None
        return (
            f"{self.path} ends inside a frame: made {self.n_frames} whole frame(s), "
            f"left out the last {self.unused_samples} of {self.n_samples} samples"
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """A stretch of a recording."""

    index: int  # from 0
    start_s: float  # since the start of the recording
    iq: NDArray[np.complex64]  # (frame_samples,)


@dataclass(frozen=True, slots=True)
class FrameImage:
    """One picture on disk."""

    path: Path
    index: int
    start_s: float


def open_recording(path: Path, params: SpectrogramParams) -> Recording:
    """Say what a file of interleaved float32 I/Q holds, from its size alone.

    Raises:
        DatasetError: no such file, an odd length (half a sample), or not enough samples for one frame.
    """
    if not path.is_file():
        raise DatasetError(f"found no recording, need a file of interleaved float32 I/Q: {path}")
    n_bytes = path.stat().st_size
    if n_bytes % SAMPLE_BYTES:
        raise DatasetError(
            f"found {n_bytes} bytes, need a multiple of {SAMPLE_BYTES} (float32 I, float32 Q); "
            f"the file is cut inside a sample or holds another format: {path}"
        )
    n_samples = n_bytes // SAMPLE_BYTES
    length, hop = params.frame_samples, params.hop_samples
    if n_samples < length:
        raise DatasetError(
            f"found {n_samples} samples, need {length} for one frame of {params.frame_s} s "
            f"at {params.sample_rate_hz:g} Hz: {path}"
        )
    n_frames = 1 + (n_samples - length) // hop
    unused = max(0, n_samples - ((n_frames - 1) * hop + max(length, hop)))
    return Recording(path, n_samples, n_frames, unused)


def read_frames(recording: Recording, params: SpectrogramParams) -> Iterator[Frame]:
    """Yield the whole frames one by one; memory holds one of them, however long the file is.

    Raises:
        DatasetError: a sample is not a finite number, or the file became shorter meanwhile.
    """
    length = params.frame_samples
    with recording.path.open("rb") as file:
        for index in range(recording.n_frames):
            start = index * params.hop_samples
            file.seek(start * SAMPLE_BYTES)
            values = np.fromfile(file, dtype="<f4", count=2 * length)
            where = f"frame {index} of {recording.path}"
            if len(values) < 2 * length:
                raise DatasetError(f"found {len(values) // 2} samples, need {length}; the file shrank: {where}")
            if not np.isfinite(values).all():
                raise DatasetError(f"found NaN or infinite samples, need finite float32 I/Q: {where}")
            yield Frame(index, start / params.sample_rate_hz, values.view(np.complex64))


def spectrogram_db(iq: NDArray[np.complex64], params: SpectrogramParams) -> NDArray[np.float32]:
    """Return the power of each frequency over time, in dB; a tone of amplitude 1 has 0 dB.

    The same values as scipy.signal.stft with its defaults (zeros put around both ends) and a symmetric window.
    RFUAV's own code takes 10*log10 of the amplitude, half of these dB: scaled to a picture's own range, the same
    colours. Source: RFUAV graphic/RawDataProcessor.py.

    Args:
        iq: (n,) samples, n >= n_fft.

    Returns:
        (n_fft, 1 + ceil(n / step)) float32. Row 0 is the highest frequency, row n_fft/2 - 1 is zero, the last is
        minus half the sample rate. One-sided: (n_fft/2 + 1, ...), the last row is zero.
    """
    signal = torch.from_numpy(np.ascontiguousarray(iq))
    if not params.two_sided:
        signal = signal.real.contiguous()
    signal = torch.nn.functional.pad(signal, (0, -len(iq) % params.step))  # scipy's `padded`
    window = _window(params.window, params.n_fft)
    values = torch.stft(
        signal,
        params.n_fft,
        hop_length=params.step,
        window=window,
        center=True,
        pad_mode="constant",
        onesided=not params.two_sided,
        return_complex=True,
    )  # (rows, columns)
    power = torch.view_as_real(values).square_().sum(-1).div_(float(window.sum()) ** 2)
    decibel = power.clamp_(min=POWER_FLOOR).log10_().mul_(10)
    if params.two_sided:
        decibel = torch.fft.fftshift(decibel, dim=0)
    return decibel.flip(0).numpy()


def render(decibel: NDArray[np.float32], params: SpectrogramParams) -> NDArray[np.uint8]:
    """Return a picture of `decibel`, its first row on top.

    Pixels are means of dB over their area, where matplotlib's imshow weighs with a Hanning kernel: weights trained on
    pictures drawn by matplotlib see the same scene, but not the same pixels.

    Args:
        decibel: (rows, columns).

    Returns:
        (height, width, 3) uint8, BGR as OpenCV has it.
    """
    rows, columns = decibel.shape
    # In two steps: OpenCV averages over areas only where both sides shrink.
    small = cv2.resize(decibel, (min(params.width, columns), min(params.height, rows)), interpolation=cv2.INTER_AREA)
    sized = cv2.resize(small, (params.width, params.height), interpolation=cv2.INTER_LINEAR)
    low, high = params.db_range or np.percentile(small, params.percentiles)
    span = max(float(high) - float(low), 1e-6)  # digital silence has no range
    index = np.clip((sized - np.float32(low)) * np.float32(256 / span), 0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(index, colour_table(params.colour_map)), dtype=np.uint8)


@cache
def colour_table(name: str) -> NDArray[np.uint8]:
    """Return (256, 1, 3) uint8 BGR: matplotlib's table of that name; for parula, which it lacks, OpenCV's."""
    if name == "parula":
        ramp = np.arange(256, dtype=np.uint8).reshape(256, 1)
        return np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_PARULA), dtype=np.uint8)
    rgba = matplotlib.colormaps[name](np.arange(256), bytes=True)  # (256, 4)
    return np.ascontiguousarray(rgba[:, 2::-1].reshape(256, 1, 3))


def write_spectrograms(path: Path, target: Path, params: SpectrogramParams) -> Iterator[FrameImage]:
    """Write a JPEG per frame of the recording at `path`, yielding each; the caller stages `target`.

    The file `a.iq` gives `a_f00.jpg`, `a_f01.jpg`, ...: a longer recording gets more digits, so names sort in time.
    `open_recording(path, params).note` says whether the file ends inside a frame.

    Raises:
        DatasetError: the file cannot be used; see `open_recording` and `read_frames`.
        StorageError: the picture cannot be written.
    """
    recording = open_recording(path, params)
    digits = max(2, len(str(recording.n_frames - 1)))
    for frame in read_frames(recording, params):
        image = render(spectrogram_db(frame.iq, params), params)
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, params.quality])
        out = target / f"{path.stem}_f{frame.index:0{digits}d}.jpg"
        with storage_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(data.tobytes())
        yield FrameImage(out, frame.index, frame.start_s)


@cache
def _window(name: Window, n: int) -> torch.Tensor:
    """Return (n,) float32, symmetric: scipy.signal.windows gives the same by default, torch does not."""
    if name == "boxcar":
        return torch.ones(n)
    make = {"hamming": torch.hamming_window, "hann": torch.hann_window, "blackman": torch.blackman_window}[name]
    return make(n, periodic=False, dtype=torch.float64).float()
