"""A detector that several processes train: what one leaves, wherever the parts are, and how it ends and goes on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.base.errors import TrainyardError
from tasks.base.progress import Note
from tasks.recognition.coco.read_coco import read_coco
from tasks.recognition.detector.networks import build
from tasks.recognition.detector.training.events import EpochMetrics
from tasks.recognition.detector.training.scenes import Scenes
from tasks.recognition.detector.training.session import DetectorSession
from tasks.recognition.detector.training.trainer import Trainer
from tasks.recognition.params import DetectorParams
from tasks.training.events import BatchDone
from tasks.training.parallel.ranks import ALONE, Ranks
from tests.samples import after
from tests.tasks.recognition.detector.conftest import PARTS, SIDE, write_scenes
from tests.together import CPU, compute_together, handed_on, helpers

N_SCENES, SIZE = 7, 3  # of the last batch, two images, one of three processes has none
OPTIONS = {
    "image_size": SIDE,
    "window": 0,
    "batch_size": 5,
    "num_epochs": 1,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "warmup_epochs": 0,
    "ema_decay": 0,
    "clip_grad_norm": 0,
    "precision": "fp32",
    "device": "cuda",
    "n_workers": 1,
}


def scenes(folder: str) -> Scenes:
    """Return scenes of which every third shows nothing: some processes have more parts in a batch than others."""
    images = read_coco(Path(folder) / "annotations.json", PARTS).images
    shown = [replace(image, annotations=()) if n % 3 == 0 else image for n, image in enumerate(images)]
    return Scenes(shown, SIDE, keep=True)


def trained(folder: str, ranks: Ranks) -> tuple[EpochMetrics, dict[str, torch.Tensor]]:
    """Return the metrics of an epoch, and the weights after it."""
    torch.manual_seed(0)
    model = build({"network": "fcos_small", "classes": PARTS, "image_size": SIDE})
    trainer = Trainer(model, PARTS, DetectorParams(**OPTIONS), CPU, "fp32")
    trainer.join(ranks)
    (metrics,) = [e for e in trainer.run(scenes(folder), scenes(folder)) if not isinstance(e, BatchDone)]
    return metrics, trainer.model.state_dict()


def take_part(ranks: Ranks, folder: str) -> None:
    metrics, weights = trained(folder, ranks)
    if ranks.rank == SIZE - 1:  # all have them
        torch.save({"losses": metrics.losses, "map": metrics.map, "weights": weights}, f"{folder}/trained.pt")


def test_several_processes_train_as_one_does(tmp_path):
    folder = str(tmp_path / "scenes")
    write_scenes(Path(folder), N_SCENES, 0)
    compute_together(SIZE, take_part, folder)
    together = torch.load(f"{folder}/trained.pt", weights_only=True)
    metrics, weights = trained(folder, ALONE)
    assert together["losses"] == pytest.approx(metrics.losses, rel=1e-5)
    assert together["map"] == pytest.approx(metrics.map, abs=1e-3)
    torch.testing.assert_close(together["weights"], weights, rtol=1e-3, atol=1e-5)


def session(dataset, folder, **values) -> DetectorSession:
    params = DetectorParams(**{**OPTIONS, "batch_size": 8, "num_epochs": 3, **values})
    return DetectorSession(dataset, folder, params, CPU, cache=folder.parent / "cache", clock_ms=lambda: 0)


def test_two_processes_go_on_where_one_has_stopped(dataset, tmp_path):
    alone = session(dataset, tmp_path / "alone")
    list(alone.run())
    folder = tmp_path / "shared"
    last, seen = handed_on(lambda n: session(dataset, folder, n_devices=n), [(1, after(4, BatchDone))], last=2)
    assert Note("trains in 2 processes, each on a share of every batch") in seen[1]
    for one, other in zip(alone.history, last.history, strict=True):
        assert other.metrics.losses == pytest.approx(one.metrics.losses, rel=1e-3)
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}


def test_an_image_that_cannot_be_read_any_more_is_named(dataset, tmp_path):
    own = shutil.copytree(dataset, tmp_path / "own")
    training = session(own, tmp_path / "run", n_devices=2, batch_size=24)
    events = training.run()
    next(event for event in events if isinstance(event, Note))  # every file was looked at
    for path in (own / "scenes" / "train" / "images").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(TrainyardError, match=r"\.png"):
        list(events)
    assert not helpers()


@pytest.mark.parametrize("values", [{"device": "cuda:1"}, {"device": "cpu"}, {"batch_size": 1}], ids=str)
def test_what_several_devices_cannot_do_is_refused(values):
    with pytest.raises(ValueError, match="n_devices 2 needs"):
        DetectorParams(**{**OPTIONS, "n_devices": 2, **values})
