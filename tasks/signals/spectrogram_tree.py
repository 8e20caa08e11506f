"""Goes through a folder of recordings and fills another one, of the same sub-folders, with their spectrograms."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.progress import Steps
from tasks.base.workspace import open_table, storage_errors, write_json
from tasks.images.files import in_threads, n_cores
from tasks.signals.iq_files import find_recordings
from tasks.signals.iq_layout import Layout
from tasks.signals.params import SpectrogramParams
from tasks.signals.spectrogram import FrameImage, Recording, open_recording, write_frame

FRAMES_AT_ONCE = 4  # bounds the memory: one of 0.1 s at 100 MS/s takes 250 MiB or so
FRAMES = "frames.csv"
FRAME_COLUMNS = ("path", "group", "frame", "start_s", "utc", "center_hz")
"""`path` and `group` are what `split.group_by` asks of a CSV file: the frames of one recording stay on one side.

`utc` and `center_hz` are empty where the recording does not say them."""


@dataclass(frozen=True, slots=True)
class SpectrogramReport:
    """What was found and made; also written as report.json."""

    n_recordings: int
    n_images: int
    folders: dict[str, int]  # folder below the target -> images in it
    datatypes: dict[str, int]  # how samples are stored -> recordings
    sample_rates_hz: list[float]  # those that occur
    notes: list[str]  # on recordings that end inside a frame, or whose headers are wrong


def open_all(source: Path, params: SpectrogramParams) -> list[Recording]:
    """Return every recording at `source`, looked at before any work begins.

    Raises:
        DatasetError: there is none, or some cannot be used: names the first five.
    """
    recordings: list[Recording] = []
    faults: list[str] = []
    for path in find_recordings(source):
        try:
            recordings.append(open_recording(path, params))
        except DatasetError as exc:
            faults.append(str(exc))
    if len(faults) == 1:
        raise DatasetError(faults[0])
    if faults:
        named = "; ".join(faults[:5])
        raise DatasetError(f"{len(faults)} recordings cannot be used: {named}{' ...' if len(faults) > 5 else ''}")
    return recordings


def making_spectrograms(source: Path, target: Path, params: SpectrogramParams) -> Steps[SpectrogramReport]:
    """Fill `target` with the images of every recording, frames.csv and report.json; yield per image.

    Args:
        source: a recording, or a folder of them whose structure is kept: <class>/a.iq gives <class>/a_f00.jpg.
        target: an existing empty folder.

    Raises:
        DatasetError: a recording cannot be used, or two would have images of the same name.
        StorageError: an image cannot be written.
    """
    recordings = open_all(source, params)
    base = source.parent if source.is_file() else source
    _check_names(recordings)
    total = sum(recording.n_frames for recording in recordings)
    folders: Counter[str] = Counter()
    done = 0

    def draw(job: tuple[Recording, int]) -> tuple[Path, tuple[str, str], FrameImage]:
        recording, index = job
        inside = recording.path.relative_to(base)
        image = write_frame(recording, index, target / inside.parent, params)
        return inside, _said(recording.layout, image.start_s), image

    jobs = ((recording, index) for recording in recordings for index in range(recording.n_frames))
    with storage_errors(target), open_table(target / FRAMES) as file:
        rows = csv.writer(file)
        rows.writerow(FRAME_COLUMNS)
        for inside, said, image in in_threads(draw, jobs, min(n_cores(), FRAMES_AT_ONCE)):
            name = image.path.relative_to(target).as_posix()
            rows.writerow((name, inside.as_posix(), image.index, f"{image.start_s:.9g}", *said))
            folders[inside.parent.as_posix()] += 1
            done += 1
            yield done, total
    report = _report(recordings, folders)
    write_json(target / "report.json", asdict(report))
    return report


def _said(layout: Layout, start_s: float) -> tuple[str, str]:
    """Return the time of a frame and the centre frequency, as text; empty: the recording does not say it."""
    time = (layout.start + timedelta(seconds=start_s)).isoformat() if layout.start else ""
    return time, "" if layout.center_hz is None else f"{layout.center_hz:.15g}"


def _check_names(recordings: Sequence[Recording]) -> None:
    """Refuse what would write one image over another, on file systems without upper and lower case, too."""
    taken: dict[str, Path] = {}
    for path in (recording.path for recording in recordings):
        other = taken.setdefault(str(path.with_suffix("")).lower(), path)
        if other != path:
            raise DatasetError(f"{other} and {path} would have images of the same name, need different stems")


def _report(recordings: Sequence[Recording], folders: Counter[str]) -> SpectrogramReport:
    return SpectrogramReport(
        n_recordings=len(recordings),
        n_images=folders.total(),
        folders=dict(sorted(folders.items())),
        datatypes=dict(Counter(recording.layout.name for recording in recordings)),
        sample_rates_hz=sorted({recording.sample_rate_hz for recording in recordings}),
        notes=[recording.note for recording in recordings if recording.note is not None],
    )
