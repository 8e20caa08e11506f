"""Makes every kind of file on a disk with too little room: full_disk_runner DISK SOURCES; prints how each ended.

DISK: a mounted file system of about 1 MiB. SOURCES: an empty folder elsewhere. A line for each kind and room left:
kind, room in KiB, class of the error (or `written`), its message, the files that are left.
"""

import csv
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from tasks.base.progress import finish
from tasks.base.servers.database import mlflow_uri
from tasks.base.workspace import open_table, staged, storage_errors, write_json
from tasks.classification.data import split
from tasks.classification.data.augment import augmenting
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.subset_images import SubsetImages
from tasks.classification.grading.evaluate import grade_predictions, write_report
from tasks.classification.mlflow_logging import copy_results
from tasks.classification.params import AugmentParams, EvaluateParams, SplitParams
from tasks.classification.serving import served_classifier
from tasks.images import crop, figures
from tasks.images.images import write_jpeg
from tasks.inference.predictor import Answer
from tasks.inference.tables import TableWriter, row_of
from tasks.run import checkpoint, run_log
from tasks.signals import spectrogram
from tasks.signals.params import SpectrogramParams
from tasks.splatting.capture.frames import extract_frames
from tasks.splatting.capture.inputs import adopt
from tasks.splatting.params import FramesParams
from tasks.splatting.results.export import write_archive
from tasks.splatting.results.gltf import write_gltf
from tasks.splatting.results.paths import turntable
from tasks.splatting.results.ply import write_ply
from tasks.splatting.results.spz import write_spz
from tasks.splatting.results.videos import Drawer, write_depth_maps, write_video
from tasks.splatting.results.viewer import write_viewer
from tasks.tracking.journal import Journal
from tasks.tracking.served_models import _save
from tests.tasks.splatting.capture import test_photos, test_transforms
from tests.tasks.splatting.export_scene import rasterizer, ring, splat

DISK, SOURCES = Path(sys.argv[1]), Path(sys.argv[2])
ROOMS_KIB = (0, 8, 20)
NOISE = np.random.default_rng(0)


def pictures(folder):
    """Write 3 parts of 2 classes of 4 images of noise."""
    for part, name, index in itertools.product(("train", "val", "test"), "ab", range(4)):
        path = folder / part / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), NOISE.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    return folder


def table(folder):
    with staged(folder / "stage") as made, open_table(made / "files.csv") as file:
        csv.writer(file).writerows([["name" * 10, number] for number in range(2000)])


def predictions(folder):
    with TableWriter(folder) as rows:
        for number in range(3000):
            logits = NOISE.normal(size=3).astype(np.float32)
            rows.add(row_of(Answer(f"{number}.png", None, logits, None, (4, 3), 0.5, None), ["a", "b", "c"], None))


def journal(folder):
    kept = Journal(folder)
    try:
        for step in range(2000):
            kept.append({"op": "metrics", "time": step, "step": step, "values": {"loss/train": 0.1}})
    finally:
        kept.close()


def stow(folder):
    kept = Journal(folder)
    try:
        kept.stow(DATA / "train")
    finally:
        kept.close()


def report(folder):
    answers = NOISE.dirichlet(np.ones(3), 2000).astype(np.float32)
    paths, digests = [Path(f"{i}.png") for i in range(2000)], [f"{i:032x}" for i in range(2000)]
    write_report(
        grade_predictions(answers, NOISE.integers(0, 3, 2000), paths, digests, ["a", "b", "c"], EvaluateParams()),
        folder,
    )


def served(folder):
    """The model for MLflow is put together in the temporary folder of the run."""
    model = {"model": "resnet18", "classes": ["a", "b"], "image_size": 32, "mean": [0] * 3, "std": [1] * 3}
    tempfile.tempdir = str(folder)
    (folder / "x").mkdir()
    with storage_errors(folder):
        _save(folder / "x" / "model", served_classifier(folder, WEIGHTS, model, b""))


def log(folder):
    lines = logging.getLogger("full-disk")
    lines.propagate = False
    with run_log.log_file(lines, folder / "run.log"):
        for _ in range(2000):
            lines.warning("a line of the log of a run")


def database(folder):
    os.environ["TRAINYARD_HOME"] = str(folder)
    mlflow_uri()


def results(folder):
    copy_results(RESULTS, folder / "save")


DATA = pictures(SOURCES / "data")
CLASSES = SOURCES / "classes"
for label, number in itertools.product("ab", range(8)):
    (CLASSES / label).mkdir(parents=True, exist_ok=True)
    write_jpeg(CLASSES / label / f"{number}.jpg", NOISE.integers(0, 255, (96, 96, 3), dtype=np.uint8), 95)
PHOTOS = test_photos.shoot(SOURCES / "photos", [f"{i}.jpg" for i in range(8)], quality=98)
NEEDED = test_transforms.NEEDED
TRANSFORMS = test_transforms.write(SOURCES / "transforms", frame={"mask_path": "mask.png"})
cv2.imwrite(str(TRANSFORMS / "mask.png"), np.full((test_transforms.H, test_transforms.W), 255, np.uint8))
WEIGHTS = SOURCES / "weights.pt"
torch.save({"w": torch.randn(100_000)}, WEIGHTS)
RESULTS = SOURCES / "results"
(RESULTS / "report").mkdir(parents=True)
for name in ("best.pt", "last.pt", "config.json", "history.csv", "report/a.png"):
    shutil.copyfile(WEIGHTS, RESULTS / name)
SPLAT, RING = splat(2000, 1), ring(6)
WAVES = SpectrogramParams(sample_rate_hz=1e6)
DRAWER = Drawer(splat(30, 1), rasterizer, (0.2, 0.4, 0.6))


class Snow:
    """Draws images whose video is large."""

    def image(self, camera):
        return NOISE.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)


KINDS = {
    "checkpoint of a training": lambda at: checkpoint.save_tensors(at / "a.pt", {"w": torch.randn(100_000)}),
    "JSON": lambda at: write_json(at / "a.json", list(range(20_000))),
    "CSV": table,
    "cache": lambda at: [SubsetImages([p], [None], ResizeCache(at, 96), "disk").read(0) for p in DATA.rglob("*.png")],
    "split": lambda at: finish(split.splitting(CLASSES, at, SplitParams(), 2)),
    "augmented copies": lambda at: finish(augmenting(DATA, at, AugmentParams(methods=("GaussNoise",), n_workers=1))),
    "cropped images": lambda at: crop.crop_tree(DATA, at, 0, 0, 90, 90),
    "spectrogram": lambda at: [
        spectrogram.write_image(at / f"{i}.jpg", NOISE.normal(size=(200, 200)).astype(np.float32), WAVES)
        for i in range(10)
    ],
    "journal": journal,
    "outbox": stow,
    "PLY": lambda at: write_ply(SPLAT, at / "a.ply"),
    "SPZ": lambda at: write_spz(SPLAT, at / "a.spz"),
    "glb": lambda at: write_gltf(SPLAT, at / "a.glb", RING),
    "viewer": lambda at: write_viewer(SPLAT, RING, at / "viewer.html", near_plane=0.1),
    "ZIP": lambda at: write_archive(DATA, [str(p.relative_to(DATA)) for p in DATA.rglob("*.png")], at / "a.zip"),
    "video": lambda at: list(write_video(Snow(), turntable(RING, 20, 192), at / "a.mp4", 12)),
    "depth maps": lambda at: list(write_depth_maps(DRAWER, RING, at)),
    "photographs": lambda at: list(extract_frames(PHOTOS, at / "frames", FramesParams())),
    "images and masks of a model": lambda at: list(adopt(TRANSFORMS, at / "poses", 1000, NEEDED)),
    "CSV and Parquet of predictions": predictions,
    "report and its Parquet": report,
    "figure": lambda at: figures.save(figures.confusion_matrix_figure(np.eye(3, dtype=int), list("abc")), at / "a.png"),
    "model to be served": served,
    "SQLite": database,
    "folder of results": results,
    "log": log,
}


def main():
    """Try each kind with each room."""
    for kind, room in itertools.product(KINDS, ROOMS_KIB):
        at = DISK / "at"
        at.mkdir()
        free = shutil.disk_usage(DISK).free
        with (DISK / "fill").open("wb") as fill:
            fill.write(b"x" * max(0, free - room * 1024))
        try:
            KINDS[kind](at)
            ended = ["written", ""]
        except Exception as exc:
            ended = [type(exc).__name__, str(exc)]
        left = sorted(path.name for path in at.rglob("*") if path.is_file())
        print(json.dumps([kind, room, *ended, left]), flush=True)
        shutil.rmtree(at)
        (DISK / "fill").unlink()


if __name__ == "__main__":
    main()
