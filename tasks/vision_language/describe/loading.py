"""Prepares the images of questions, a little ahead of the model, as the gate prepares those of requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tasks.base.errors import DatasetError, ImageError
from tasks.images import video
from tasks.images.files import in_threads, n_cores
from tasks.images.params import PrepareParams
from tasks.images.prepare import Rgb, bounded, read_prepared
from tasks.vision_language.describe.questions import Question

_TOLERANCE_S = 1e-3  # times of images are rounded in a video
_MOST_WORKERS = 8  # four questions wait for each, with all their images


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A question with its images, or why it cannot be asked."""

    question: Question
    images: tuple[Rgb, ...]  # each (H, W, 3), prepared
    error: str | None = None


def loaded(questions: Sequence[Question], prepare: PrepareParams, n_workers: int = 0) -> Iterator[Loaded]:
    """Yield the questions in order, each with its images.

    Args:
        questions: those on a video follow each other in time.
        prepare: the bounds of every image.
        n_workers: threads; 0: as many as cores, 8 at most.

    Raises:
        Interrupted: a signal has come.
    """

    def load(question: Question) -> Loaded:
        return _of_files(question, prepare)

    n_workers = n_workers or min(n_cores(), _MOST_WORKERS)
    for timed, group in groupby(questions, key=lambda question: bool(question.times)):
        if timed:
            yield from _of_video(list(group), prepare)
        else:
            yield from in_threads(load, group, n_workers)


def _of_files(question: Question, prepare: PrepareParams) -> Loaded:
    if question.error is not None:
        return Loaded(question, (), question.error)
    try:
        # As the gate: half of a JPEG's size is enough where it is shrunk to less than that.
        return Loaded(question, tuple(read_prepared(path, prepare, prepare.max_side) for path in question.images))
    except ImageError as exc:
        return Loaded(question, (), str(exc))


def _of_video(questions: Sequence[Question], prepare: PrepareParams) -> Iterator[Loaded]:
    """Decode a video once; an image that several moments of a question fall on is shown once."""
    (path,) = questions[0].images
    pictures = _pictures(path, [moment for question in questions for moment in question.times], prepare)
    for question in questions:
        found = [picture for _ in question.times if (picture := next(pictures, None)) is not None]
        images = [picture for number, picture in enumerate(found) if number == 0 or picture is not found[number - 1]]
        error = None if images else f"found no image at {question.times[0]:.1f} s, where the video is cut off: {path}"
        yield Loaded(question, tuple(images), error)


def _pictures(path: Path, moments: Sequence[float], prepare: PrepareParams) -> Iterator[Rgb]:
    """Yield the first image from each moment on, the same one again where it is that; fewer where the video ends."""
    due = 0
    newest: Rgb | None = None
    try:
        for picture in video.decode(path):
            if due == len(moments):
                return
            if picture.time_s < moments[due] - _TOLERANCE_S:
                continue
            newest = bounded(picture.rgb(), prepare)
            while due < len(moments) and moments[due] - _TOLERANCE_S <= picture.time_s:
                due += 1
                yield newest
    except DatasetError:
        return  # damaged from here on: the questions on what follows are told so
