"""The child process that runs COLMAP, and prints its progress as lines of JSON.

`python -m tasks.splatting.poses.colmap_process JOB.json`.
Importing pycolmap replaces the process's SIGTERM handler, and what runs in C++ cannot be interrupted: here both harm
nobody. A stage writes under a temporary name and renames, so that this process may be killed at any moment.
"""

import ctypes
import itertools
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pycolmap

from tasks.base.errors import TrainyardError
from tasks.base.workspace import staged, write_json
from tasks.splatting.capture.frame_table import MIN_IMAGES
from tasks.splatting.poses.colmap_job import FACTS, FEATURES, MATCHES, MODELS, UNDISTORTED, ColmapJob, read_job
from tasks.splatting.poses.colmap_progress import Reporter, lines, watched
from tasks.splatting.poses.known_cameras import KnownScene, from_frames, from_model
from tasks.splatting.poses.pose_facts import Facts, ModelFacts, Pair
from tasks.splatting.poses.straighten import Straightener
from tasks.splatting.poses.triangulate import triangulated

_PR_SET_PDEATHSIG = 1
# pycolmap handles these to print its stack, and may wait for ever for a lock that the crashed thread holds.
_TAKEN_OVER = (signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGBUS)
_BLOCK = 10  # images; every pair of two blocks is matched, then there is news
_MAX_PAIR = 2147483647  # COLMAP numbers pairs first * this + second
_TURNED = {5, 6}  # TwoViewGeometry configurations PANORAMIC, PLANAR_OR_PANORAMIC
_VERIFIED = {2, 3, 4, 5, 6, 7}  # all but undefined, degenerate and watermark


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
    todo = {"features": _features, "matches": _matches, "poses": _poses, "undistort": _undistort, "adopt": _adopt}
    try:
        for stage in job.stages:
            todo[stage](job, reporter)
    except TrainyardError as exc:
        reporter.refused(exc)


@contextmanager
def _database(job: ColmapJob, target: str, copied_from: str | None = None) -> Iterator[Path]:
    folder = Path(job.folder)
    tmp = folder / f"{target}.tmp"
    for left in folder.glob(f"{target}.tmp*"):
        left.unlink()
    if copied_from:
        shutil.copyfile(folder / copied_from, tmp)
    yield tmp
    tmp.rename(folder / target)


def _features(job: ColmapJob, reporter: Reporter) -> None:
    options = pycolmap.FeatureExtractionOptions(max_image_size=job.max_side, num_threads=job.num_threads, use_gpu=False)
    options.sift.max_num_features = job.max_features
    total = sum(map(len, job.groups))
    with _database(job, FEATURES) as database:
        with watched(lines(job, "] Processed file ["), "features", total, reporter):
            for names in job.groups:  # each call makes a camera
                pycolmap.extract_features(
                    database,
                    job.images,
                    image_names=list(names),
                    camera_mode=pycolmap.CameraMode.SINGLE,
                    reader_options=pycolmap.ImageReaderOptions(camera_model=job.camera_model),
                    extraction_options=options,
                    device=pycolmap.Device.cpu,
                )


def _matches(job: ColmapJob, reporter: Reporter) -> None:
    options = pycolmap.FeatureMatchingOptions(num_threads=job.num_threads, use_gpu=False)
    n = sum(map(len, job.groups))
    blocks = pycolmap.ExhaustivePairingOptions(block_size=_BLOCK)
    total = (-(-n // _BLOCK)) ** 2 if job.exhaustive else n  # a line a block of pairs, or an image
    begun = lines(job, "] Processing ")
    with _database(job, MATCHES, copied_from=FEATURES) as database:
        with watched(lambda: max(0, begun() - 1), "matches", total, reporter):
            if job.exhaustive:
                pycolmap.match_exhaustive(database, options, blocks, device=pycolmap.Device.cpu)
            else:
                pycolmap.match_sequential(database, options, device=pycolmap.Device.cpu)
    (Path(job.folder) / FEATURES).unlink()


def _poses(job: ColmapJob, reporter: Reporter) -> None:
    total = sum(map(len, job.groups))
    options = pycolmap.IncrementalPipelineOptions(
        num_threads=job.num_threads, random_seed=job.seed, min_model_size=MIN_IMAGES, max_num_models=10
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
            database, job.images, models, options, initial_image_pair_callback=begun, next_image_callback=joined
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
    models = [_model_facts(number, model) for number, model in found.items() if model.num_reg_images() >= MIN_IMAGES]
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


def _undistort(job: ColmapJob, reporter: Reporter) -> None:
    _write_scene(from_model(job, reporter.note), job, reporter)


def _adopt(job: ColmapJob, reporter: Reporter) -> None:
    """Take over cameras that somebody else has found."""
    scene = from_model(job, reporter.note) if job.model else from_frames(job)
    if not len(scene.points.positions):
        reporter.note(f"{job.source or job.model} has no points: they are triangulated from its cameras")
        scene = triangulated(scene, job, reporter)
    _write_scene(scene, job, reporter)


def _write_scene(scene: KnownScene, job: ColmapJob, reporter: Reporter) -> None:
    total, done = len(scene.images), itertools.count(1)
    reporter.progress("undistort", 0, total)
    with staged(Path(job.folder) / UNDISTORTED) as target:
        made = Straightener(scene, target, job.undistorted_max_side)
        made.write(max(0, job.num_threads), lambda: reporter.progress("undistort", next(done), total))
        facts = {
            "names": [known.name for known in scene.images],
            "unplaced": scene.unplaced,
            "points": len(scene.points.positions),
            "reprojection_error_px": scene.points.reprojection_error_px,
            "track_length": scene.points.track_length,
        }
        write_json(target / FACTS, facts)


if __name__ == "__main__":
    main()
