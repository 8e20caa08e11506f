"""The flow that `benchmarks/outage.py` starts: epochs of a fixed length that log what a training logs."""

import hashlib
import json
import random
import time
from pathlib import Path

from PIL import Image
from prefect import flow

from gpu_pools.slots.local_slot import on_device
from tasks.base.workspace import write_json
from tasks.run.mlflow_run import open_mlflow_run
from tasks.run.prefect_page import Page
from tasks.run.step_context import ProgressReporter, step_dir
from tasks.run.stop_request import stop_asked
from tasks.tracking.tracker import Tracker

HURRY = "hurry"
"""A file in the run's folder: the outage is over, the rest is to be done. Until then the last epochs wait."""

LARGE_BYTES = 9 * 2**20  # larger than what is copied into the outbox


@flow(name="outage_training", flow_run_name="{name}")
def outage_training(name: str, epochs: int, epoch_s: float) -> str | None:
    """Log `epochs` epochs of `epoch_s` seconds; `checkpoint.json` has the seconds that each took beyond its sleep."""
    folder = step_dir(None, "training")
    with on_device("cpu", "training"):
        recorded = {"train": {"epochs": epochs, "lr": 1e-3, "layers": [64, 32]}}
        with (
            open_mlflow_run(folder, recorded, "cpu", "outage", name, free=(), last=True) as (tracker, _, log),
            Page("training", "Training") as page,
        ):
            reporter = ProgressReporter("epoch")
            gaps = read_gaps(folder)
            for epoch in range(len(gaps) + 1, epochs + 1):
                _work(folder, epoch, epochs, epoch_s)
                begun = time.perf_counter()
                _log(tracker, folder, epoch)
                tracker.sync()
                page.row({"epoch": epoch, "loss": 1 / epoch})
                page.progress(epoch / epochs)
                reporter.report(epoch, epochs)
                log.info("epoch %d of %d", epoch, epochs)
                assert not stop_asked()
                gaps.append(time.perf_counter() - begun)
                write_json(folder / "checkpoint.json", gaps)
    return tracker.known_id


def read_gaps(folder: Path) -> list[float]:
    """Return the seconds that each epoch so far took beyond its sleep."""
    path = folder / "checkpoint.json"
    return list(json.loads(path.read_text())) if path.is_file() else []


def _work(folder: Path, epoch: int, epochs: int, epoch_s: float) -> None:
    """Stand for the training: sleep, and near the end wait until the outage is over."""
    time.sleep(epoch_s)
    while epoch > 0.75 * epochs and not (folder / HURRY).exists():
        time.sleep(0.05)


def _log(tracker: Tracker, folder: Path, epoch: int) -> None:
    """Log what is the same in every run: from the epoch alone."""
    chance = random.Random(epoch)
    tracker.metrics({f"part{i}/value": chance.random() for i in range(16)}, epoch)
    tracker.metrics({f"steps/{i % 20}": chance.random() for i in range(20)}, 1000 + epoch)
    if epoch % 5 == 0:
        text = "".join(hashlib.sha256(f"{epoch} {i}".encode()).hexdigest() for i in range(50))
        tracker.text(text, f"tables/epoch-{epoch}.txt")
        tracker.tag(f"epoch_{epoch}", str(epoch))
        picture = folder / "picture.png"
        Image.new("RGB", (64, 64), (epoch, 0, 0)).save(picture)
        tracker.image("samples", epoch, picture)
    if epoch == 12:
        weights = folder / "best.bin"
        weights.write_bytes(chance.randbytes(LARGE_BYTES))
        tracker.artifact(weights, "weights")
