"""Makes the demo's data set: I/Q recordings of five kinds at several SNRs, and their spectrograms."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tasks.base.workspace import staged, storage_errors
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import write_spectrograms
from tasks.signals.synthesis import KINDS, Kind, make_recording
from tasks.signals.waveforms import Samples

SAMPLE_RATE_HZ = 4e6  # a scale model, 1:25, of 100 MS/s in frames of 0.1 s: see synthesis.py
FRAME_S = 4e-3
GROUP_BY = r"^(.*_rec\d+)"  # names the recording in an image's file name


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """One recording more is on disk."""

    done: int  # recordings so far
    total: int
    n_images: int  # images so far
    name: str  # of the recording, for example chirp_rec003_snr-05


def make_demo_dataset(
    target: Path,
    *,
    n_recordings_per_class: int = 140,
    frames_per_recording: int = 2,
    snrs_db: Sequence[int] = (-12, -8, -4, 0, 6),
    size: int = 128,
    seed: int = 0,
    n_workers: int = 2,
) -> Iterator[DemoProgress]:
    """Write `target/iq/<class>/*.iq` and, from those files, `target/images/<class>/*.jpg`; yield per recording.

    `target` appears when the last recording is done, so that a half-made data set is never taken for a whole one.

    Args:
        n_recordings_per_class: each has its own transmitter and place; the SNRs are dealt out in turn.
        frames_per_recording: images of each, 128 kB of I/Q per image.
        snrs_db: whole dB, over the full band while a burst is on; see `make_recording`.
        size: pixels on a side.
        n_workers: threads; the files do not depend on it.

    Raises:
        ValueError: a count below 1.
        StorageError: `target` cannot be written.
    """
    if min(n_recordings_per_class, frames_per_recording, len(snrs_db)) < 1:
        raise ValueError(
            f"found {n_recordings_per_class} recordings per class, {frames_per_recording} frames each, "
            f"{len(snrs_db)} SNRs; need at least 1 of each"
        )
    jobs = [
        _Job(kind, number, snrs_db[number % len(snrs_db)], seed * 1_000_003 + number)
        for number, kind in product(range(n_recordings_per_class), KINDS)
    ]
    n_images = 0
    with staged(target) as tmp, ThreadPoolExecutor(n_workers) as pool:
        counts = pool.map(lambda job: job.make(tmp, frames_per_recording, size), jobs)
        for done, (job, n) in enumerate(zip(jobs, counts, strict=True), start=1):
            n_images += n
            yield DemoProgress(done, len(jobs), n_images, job.name)


@dataclass(frozen=True, slots=True)
class _Job:
    """One recording to make."""

    kind: Kind
    number: int
    snr_db: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}_rec{self.number:03d}_snr{self.snr_db:+03d}"

    def make(self, folder: Path, n_frames: int, size: int) -> int:
        """Write the recording and its images; return their number."""
        iq = make_recording(self.kind, self.snr_db, self.seed, SAMPLE_RATE_HZ, n_frames * FRAME_S)
        return _write(folder, self.kind, self.name, iq, size)


def _write(folder: Path, kind: Kind, name: str, iq: Samples, size: int) -> int:
    """Write a recording, and from its file the images; return their number."""
    path = folder / "iq" / kind / f"{name}.iq"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(iq.astype("<c8").tobytes())  # complex64 is interleaved float32
    params = SpectrogramParams(
        sample_rate_hz=SAMPLE_RATE_HZ,
        frame_s=FRAME_S,
        n_fft=128,
        overlap=0.75,  # more columns to average over: less speckle
        percentiles=(1.0, 99.5),
        width=size,
        height=size,
    )
    return len(list(write_spectrograms(path, folder / "images" / kind, params)))
