"""Runs COLMAP in a child process, which ends when nobody listens any more."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.base.errors import ConfigError, DatasetError, ImageError, StorageError
from tasks.base.processes import end_child
from tasks.base.progress import Note, Progress
from tasks.base.startup import module_command
from tasks.base.workspace import storage_errors, write_json

FEATURES, MATCHES, MODELS, FACTS, UNDISTORTED = "features.db", "matches.db", "models", "facts.json", "undistorted"
"""What each stage leaves in the folder of the poses."""

LOG = "colmap.log"
_JOB = "job.json"
_FULL_BYTES = 1 << 20  # left on the disk: with less COLMAP cannot have written what it wanted
_REFUSALS = {kind.__name__: kind for kind in (ConfigError, DatasetError, ImageError, StorageError)}
_GRACE_S = 2.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class ColmapJob:
    """What COLMAP is to do; crosses to the child as JSON."""

    stages: tuple[str, ...]  # of "features", "matches", "poses", "undistort", "adopt"
    images: str = ""  # folder
    folder: str = ""  # where the stages' results go
    groups: tuple[tuple[str, ...], ...] = ()  # names of images, by the camera that took them
    camera_model: str = "OPENCV"
    exhaustive: bool = True
    max_side: int = 640  # pixels, of the copies features are looked for on
    max_features: int = 4096  # per image
    seed: int = 0
    num_threads: int = -1  # -1: all
    model: str = ""  # folder of the model to undistort
    known: str = ""  # file of cameras that are no model, as `tasks/splatting/capture/transforms.py` writes it
    source: str = ""  # file they were read from
    places: tuple[str, ...] = ()  # folders that may hold the model's images, the likeliest first
    masks: tuple[str, ...] = ()  # of each of `places` the folder of its masks; empty: there are none
    min_registered: int = 3  # images of a known camera that have to be there
    min_registered_share: float = 0.0
    undistorted_max_side: int = 65_500  # pixels; a JPEG can have no more
    parent: int = 0  # process that wants it


def read_job(path: Path) -> ColmapJob:
    """Return the job that `run_colmap` wrote."""
    values = json.loads(path.read_text())
    lists = {"stages": tuple(values["stages"]), "places": tuple(values["places"]), "masks": tuple(values["masks"])}
    return ColmapJob(**{**values, **lists, "groups": tuple(map(tuple, values["groups"]))})


def run_colmap(job: ColmapJob) -> Iterator[Progress | Note]:
    """Yield how far COLMAP is and what to know until all stages are done; closing the generator ends COLMAP.

    What COLMAP itself prints is added to colmap.log in the job's folder. The thread that takes the first value has to
    outlive the work: the kernel ends the child with the thread that started it.

    Raises:
        DatasetError: COLMAP failed, or was killed from outside, with the end of its log; or the job was refused.
        ConfigError, ImageError: as their names say, with the job's own words.
        StorageError: the folder cannot be written.
    """
    folder = Path(job.folder)
    write_json(folder / _JOB, {**asdict(job), "parent": os.getpid()})
    with storage_errors(folder / LOG), (folder / LOG).open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            module_command("tasks.splatting.poses.colmap_process", str(folder / _JOB)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    stage = job.stages[0]
    try:
        with process.stdout:
            for line in process.stdout:
                said = json.loads(line)
                if "refused" in said:
                    raise _REFUSALS.get(said["error"], DatasetError)(said["refused"])
                if "note" in said:
                    yield Note(said["note"])
                    continue
                event = Progress(**said)
                stage = event.work
                yield event
        code = process.wait()
    finally:
        end_child(process, _GRACE_S)  # nothing is lost but the stage it is at
    if code != 0:
        if shutil.disk_usage(folder).free < _FULL_BYTES:  # COLMAP's own words are many, and differ by stage
            raise StorageError(f"disk full while writing {folder}: free room there")
        raise DatasetError(_what_happened(stage, code, folder / LOG, begin))


def _what_happened(stage: str, code: int, log: Path, begin: int) -> str:
    if code == -signal.SIGKILL:
        return (
            f"COLMAP was killed at stage {stage}, most likely for want of memory: lower poses.max_side or max_features"
        )
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith(("@", "***"))]  # addresses of a stack
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"COLMAP {how} at stage {stage}; the end of {log}:\n" + "\n".join(lines[-5:])
