"""COLMAP in a process of its own: `python -m tasks.splatting.colmap_process JOB.json`; prints JSON lines of progress.

Importing pycolmap replaces the process's SIGTERM handler, and what runs in C++ cannot be interrupted: here both harm
nobody. A stage writes under a temporary name and renames, so that this process may be killed at any moment.
"""

import ctypes
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pycolmap

from tasks.errors import DatasetError, TrainyardError
from tasks.splatting.colmap_job import FACTS, FEATURES, LOG, MATCHES, MODELS, UNDISTORTED, Job, read_job
from tasks.splatting.picked import MIN_PICTURES
from tasks.splatting.pixels import drop_exif
from tasks.splatting.pose_facts import Facts, ModelFacts, Pair
from tasks.workspace import allowed_path, staged, write_json

_PR_SET_PDEATHSIG = 1
# pycolmap handles these to print its stack, and may wait for ever for a lock that the crashed thread holds.
_TAKEN_OVER = (signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGBUS)
_POLL_S = 0.5
_BLOCK = 10  # pictures; every pair of two blocks is matched, then there is news
_MAX_PAIR = 2147483647  # COLMAP numbers pairs first * this + second
_TURNED = {5, 6}  # TwoViewGeometry configurations PANORAMIC, PLANAR_OR_PANORAMIC
_VERIFIED = {2, 3, 4, 5, 6, 7}  # all but undefined, degenerate and watermark


class Reporter:
    """Prints lines to whoever started this process."""

    def __init__(self) -> None:
        # Whatever the C++ side prints must not fall among the lines.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is."""
        print(json.dumps({"stage": stage, "done": min(done, total), "total": total}), file=self._out, flush=True)

    def refused(self, why: str) -> None:
        """Say that the job cannot be done."""
        print(json.dumps({"refused": why}), file=self._out, flush=True)


def main() -> None:
    """Do the stages of the job, one after the other."""
    job = read_job(Path(sys.argv[1]))
    for number in _TAKEN_OVER:
        signal.signal(number, signal.SIG_DFL)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != job.parent:  # it died before the kernel was asked
        sys.exit(1)
    pycolmap.set_random_seed(job.seed)
    reporter = Reporter()
    todo = {"features": _features, "matches": _matches, "poses": _poses, "undistort": _undistort}
    try:
        for stage in job.stages:
            todo[stage](job, reporter)
    except TrainyardError as exc:
        reporter.refused(str(exc))


@contextmanager
def _database(job: Job, target: str, copied_from: str | None = None) -> Iterator[Path]:
    folder = Path(job.folder)
    tmp = folder / f"{target}.tmp"
    for left in folder.glob(f"{target}.tmp*"):
        left.unlink()
    if copied_from:
        shutil.copyfile(folder / copied_from, tmp)
    yield tmp
    tmp.rename(folder / target)


@contextmanager
def _watched(count: Callable[[], int], stage: str, total: int, reporter: Reporter) -> Iterator[None]:
    """Say how far a stage is while it runs: COLMAP itself only logs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_S):
            reporter.progress(stage, count(), total)

    reporter.progress(stage, 0, total)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    reporter.progress(stage, total, total)


def _lines(job: Job, pattern: str) -> Callable[[], int]:
    """Return what counts the lines COLMAP will log from now on that hold `pattern`.

    Its database would tell as well, but is left alone: COLMAP was seen to abort with a reader beside it.
    """
    log = Path(job.folder) / LOG
    begin = log.stat().st_size

    def count() -> int:
        with log.open("rb") as file:
            file.seek(begin)
            return file.read().count(pattern.encode())

    return count


def _features(job: Job, reporter: Reporter) -> None:
    options = pycolmap.FeatureExtractionOptions(max_image_size=job.max_side, num_threads=job.num_threads, use_gpu=False)
    options.sift.max_num_features = job.max_features
    total = sum(map(len, job.groups))
    with _database(job, FEATURES) as database:
        with _watched(_lines(job, "] Processed file ["), "features", total, reporter):
            for names in job.groups:  # each call makes a camera
                pycolmap.extract_features(
                    database,
                    job.pictures,
                    image_names=list(names),
                    camera_mode=pycolmap.CameraMode.SINGLE,
                    reader_options=pycolmap.ImageReaderOptions(camera_model=job.camera_model),
                    extraction_options=options,
                    device=pycolmap.Device.cpu,
                )


def _matches(job: Job, reporter: Reporter) -> None:
    options = pycolmap.FeatureMatchingOptions(num_threads=job.num_threads, use_gpu=False)
    n = sum(map(len, job.groups))
    blocks = pycolmap.ExhaustivePairingOptions(block_size=_BLOCK)
    total = (-(-n // _BLOCK)) ** 2 if job.exhaustive else n  # a line a block of pairs, or a picture
    begun = _lines(job, "] Processing ")
    with _database(job, MATCHES, copied_from=FEATURES) as database:
        with _watched(lambda: max(0, begun() - 1), "matches", total, reporter):
            if job.exhaustive:
                pycolmap.match_exhaustive(database, options, blocks, device=pycolmap.Device.cpu)
            else:
                pycolmap.match_sequential(database, options, device=pycolmap.Device.cpu)
    (Path(job.folder) / FEATURES).unlink()


def _poses(job: Job, reporter: Reporter) -> None:
    total = sum(map(len, job.groups))
    options = pycolmap.IncrementalPipelineOptions(
        num_threads=job.num_threads, random_seed=job.seed, min_model_size=MIN_PICTURES, max_num_models=10
    )
    registered = [0]

    def begun() -> None:
        registered[0] = 2  # a model begins with a pair
        reporter.progress("poses", 2, total)

    def joined() -> None:
        registered[0] += 1
        reporter.progress("poses", registered[0], total)

    database = Path(job.folder) / MATCHES
    with staged(Path(job.folder) / MODELS) as models:
        found = pycolmap.incremental_mapping(
            database, job.pictures, models, options, initial_image_pair_callback=begun, next_image_callback=joined
        )
        facts = _facts(database, found)
        write_json(models / FACTS, facts.as_json())


def _facts(database: Path, found: dict[int, Any]) -> Facts:
    connection = sqlite3.connect(database)  # not read-only: whoever closes it last must be able to tidy up
    try:
        names = dict(connection.execute("SELECT image_id, name FROM images"))
        n_features = dict(connection.execute("SELECT image_id, rows FROM keypoints"))
        rows = connection.execute("SELECT pair_id, rows, config FROM two_view_geometries").fetchall()
    finally:
        connection.close()
    pairs = [
        Pair(names[pair // _MAX_PAIR], names[pair % _MAX_PAIR], inliers, config in _TURNED)
        for pair, inliers, config in rows
        if config in _VERIFIED and inliers
    ]
    models = [_model_facts(number, model) for number, model in found.items() if model.num_reg_images() >= MIN_PICTURES]
    return Facts(
        {name: n_features.get(number, 0) for number, name in names.items()},
        tuple(pairs),
        tuple(sorted(models, key=lambda model: (-len(model.names), -model.points, model.number))),
    )


def _model_facts(number: int, model: Any) -> ModelFacts:
    names = sorted(model.image(image).name for image in model.reg_image_ids())
    return ModelFacts(
        number=number,
        names=tuple(names),
        points=model.num_points3D(),
        reprojection_error_px=model.compute_mean_reprojection_error(),
        track_length=model.compute_mean_track_length(),
    )


def _undistort(job: Job, reporter: Reporter) -> None:
    model = pycolmap.Reconstruction(job.model)
    total = model.num_reg_images()
    facts = _model_facts(0, model)
    for name in facts.names:
        _check_name(name, job)
    with staged(Path(job.folder) / UNDISTORTED) as target:
        images = target / "images"
        options = pycolmap.UndistortCameraOptions(max_image_size=job.undistorted_max_side)
        with _watched(lambda: _n_files(images), "undistort", total, reporter):
            pycolmap.undistort_images(
                target, job.model, job.pictures, undistort_options=options, jpeg_quality=95, num_threads=job.num_threads
            )
        written = list((target / "sparse").iterdir())
        (target / "sparse" / "0").mkdir()
        for path in written:
            path.rename(target / "sparse" / "0" / path.name)
        shutil.rmtree(target / "stereo", ignore_errors=True)  # for COLMAP's own dense reconstruction
        for script in target.glob("run-colmap-*.sh"):
            script.unlink()
        for path in images.rglob("*"):
            if path.suffix.lower() in {".jpg", ".jpeg"}:
                drop_exif(path)  # COLMAP copies it, and the orientation would turn pixels whose camera is not turned
        write_json(target / FACTS, asdict(facts))


def _check_name(name: str, job: Job) -> None:
    """Hold a name in somebody's model against where pictures are read and written.

    Raises:
        TrainyardError: it leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise DatasetError(f"{job.model} names the picture {name!r}, which leads out of {job.pictures}")
    allowed_path(Path(job.pictures) / name)


def _n_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else 0


if __name__ == "__main__":
    main()
