"""Makes spectrograms of clean recordings at given signal-to-noise ratios."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.base.errors import DatasetError
from tasks.base.progress import Steps
from tasks.base.workspace import open_table, storage_errors, write_json
from tasks.signals.iq_files import find_recordings, read_layout
from tasks.signals.mixing_noise import generator, make_noise, measure, noise_amplitude
from tasks.signals.params import MixParams, SpectrogramParams
from tasks.signals.spectrogram import (
    Frame,
    Recording,
    at_rate,
    open_recording,
    read_frames,
    spectrogram_db,
    write_image,
)
from tasks.signals.spectrogram_tree import open_all

RECIPE, FRAMES = "recipe.json", "frames.csv"
_COLUMNS = ("recording", "frame", "start_s", "power", "active_share", "bandwidth_hz")


@dataclass(frozen=True, slots=True)
class MixReport:
    """What was mixed; with the parameters also written as recipe.json."""

    n_recordings: int
    n_frames: int  # of all recordings; each gives an image for every SNR
    n_noise_recordings: int
    classes: list[str]
    notes: list[str]


def mixing(source: Path, target: Path, mix: MixParams, params: SpectrogramParams) -> Steps[MixReport]:
    """Fill `target` with <snr>dB/<class>/<recording>_f00.jpg, frames.csv and recipe.json; yield per frame.

    Args:
        source: <class>/<recording>, or deeper; folders below that of the class become part of an image's name.
        target: an existing empty folder.

    Raises:
        DatasetError: a recording cannot be used, lies in no class, or another has the same name.
    """
    recordings = open_all(source, params)
    noises = _open_noise(mix.noise, recordings) if mix.noise else []
    names = _names(source, recordings)
    total = sum(_n_frames(recording, mix) for recording in recordings)
    done = 0
    with storage_errors(target), open_table(target / FRAMES) as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for recording, (label, stem) in zip(recordings, names, strict=True):
            inside = recording.path.relative_to(source).as_posix()
            for row in _mix_one(recording, target, mix, params, inside=inside, label=label, stem=stem, noises=noises):
                rows.writerow(row)
                done += 1
                yield done, total
    report = MixReport(
        n_recordings=len(recordings),
        n_frames=total,
        n_noise_recordings=len(noises),
        classes=sorted({label for label, _ in names}),
        notes=[recording.note for recording in recordings if recording.note is not None],
    )
    made: dict[str, Any] = {"mix": mix.model_dump(mode="json"), "spectrogram": params.model_dump(mode="json")}
    write_json(target / RECIPE, {**made, **asdict(report)})
    return report


def _mix_one(
    recording: Recording,
    target: Path,
    mix: MixParams,
    params: SpectrogramParams,
    *,
    inside: str,
    label: str,
    stem: str,
    noises: Sequence[Recording],
) -> Iterator[tuple[object, ...]]:
    """Write the images of every frame at every SNR; yield the frame's row of frames.csv.

    Args:
        inside: the recording's path below the data, which seeds its noise.
        label, stem: its class, and what its images are called.
    """
    rate = recording.sample_rate_hz
    params = at_rate(params, rate, recording.path)
    for frame in _frames(recording, mix, params):
        try:
            measured = measure(frame.iq, rate, mix)
        except DatasetError as exc:
            raise DatasetError(f"{exc}: frame {frame.index} of {recording.path}") from exc
        noise = make_noise(
            len(frame.iq), generator(mix.seed, inside, frame.index), noises, mix.recorded_share
        )  # the same at every SNR: what changes along a curve is the ratio alone
        for snr_db in mix.snrs_db:
            mixed = frame.iq + noise * noise.dtype.type(noise_amplitude(measured, snr_db, rate))
            name = f"{stem}_f{frame.index:02d}.jpg"
            write_image(target / f"{snr_db:g}dB" / label / name, spectrogram_db(mixed, params), params)
        yield inside, frame.index, frame.start_s, measured.power, measured.active_share, measured.bandwidth_hz


def _frames(recording: Recording, mix: MixParams, params: SpectrogramParams) -> Iterator[Frame]:
    for frame in read_frames(recording, params):
        if frame.index >= _n_frames(recording, mix):
            return
        yield frame


def _n_frames(recording: Recording, mix: MixParams) -> int:
    return min(recording.n_frames, mix.max_frames or recording.n_frames)


def _names(source: Path, recordings: Sequence[Recording]) -> list[tuple[str, str]]:
    """Return the class of each recording and what its images are called."""
    names: list[tuple[str, str]] = []
    taken: dict[tuple[str, str], Path] = {}
    for path in (recording.path for recording in recordings):
        folders = path.relative_to(source).parent.parts if source.is_dir() else ()
        if not folders:
            raise DatasetError(f"found a recording outside the folder of a class, need <class>/<recording>: {path}")
        name = folders[0], "__".join([*folders[1:], path.stem])
        other = taken.setdefault((name[0].lower(), name[1].lower()), path)
        if other != path:
            raise DatasetError(f"{other} and {path} would have images of the same name, need different stems")
        names.append(name)
    return names


def _open_noise(source: Path, recordings: Sequence[Recording]) -> list[Recording]:
    """Return the recordings of interference, any length of them, at the rate of what they are mixed into."""
    rates = {recording.sample_rate_hz for recording in recordings}
    if len(rates) > 1:
        raise DatasetError(f"found recordings of {sorted(rates)} samples/s, need one rate to mix in recorded noise")
    (rate,) = rates
    found: list[Recording] = []
    for path in find_recordings(source):
        told = read_layout(path).sample_rate_hz
        if told not in {None, rate}:
            raise DatasetError(f"found noise of {told:g} samples/s, need {rate:g} as the recordings have: {path}")
        # One sample is a frame here: a stretch is put together from as many as it takes.
        found.append(open_recording(path, SpectrogramParams(sample_rate_hz=rate, frame_s=16 / rate, n_fft=16)))
    return found
