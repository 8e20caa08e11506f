"""How much of the rate on synthetic data the training keeps on real JPEG files of 1800x1200, with the cache warm.

python benchmarks/input_pipeline.py [--repeats 3] [--images 192] [--size 224]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.classification.cache import ResizeCache, read_entry
from tasks.classification.data import Batches
from tasks.classification.events import BatchDone
from tasks.classification.models import build_model
from tasks.classification.params import TrainParams
from tasks.classification.train import Trainer

BATCH = 32
CPU = torch.device("cpu")


def make_jpegs(folder: Path, n: int) -> list[Path]:
    """Write pictures of 1800x1200 with structure at several scales, which compress like photographs."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        image = np.zeros((1200, 1800, 3), np.float32)
        for scale in (8, 60, 300):
            coarse = rng.random((1200 // scale + 1, 1800 // scale + 1, 3), dtype=np.float32)
            image += cv2.resize(coarse, (1800, 1200), interpolation=cv2.INTER_LINEAR)
        path = folder / f"{i:04}.jpg"
        cv2.imwrite(str(path), (image * 85).astype(np.uint8))
        paths.append(path)
    return paths


def rate(batches: Batches, size: int) -> float:
    """Return images per second of the training loop over one epoch."""
    torch.manual_seed(0)
    params = TrainParams(pretrained=False, image_size=size, batch_size=BATCH, num_epochs=1)
    trainer = Trainer(build_model("resnet18", 2), 2, params, CPU, "bf16")
    events: Iterator[object] = trainer.run(batches, Batches(lambda i: np.zeros((size, size, 3), np.uint8), [0, 1], 2))
    next(events)  # the first batch also builds kernels
    start, n = time.perf_counter(), 0
    for event in events:
        if isinstance(event, BatchDone):
            n, end = n + 1, time.perf_counter()
    return n * BATCH / (end - start)


def main() -> None:
    """Measure both in turn and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    size, labels = args.size, [i % 2 for i in range(args.images)]
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        paths = make_jpegs(Path(tmp), args.images)
        cache = ResizeCache(Path(tmp) / "cache", size)
        start = time.perf_counter()
        cold = [entry.path for _, entry in cache.prepare(paths)]
        middle = time.perf_counter()
        entries = [entry.path for _, entry in cache.prepare(paths)]
        end = time.perf_counter()
        assert cold == entries
        fixed = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
        sources = {
            "synthetic": lambda i: fixed,
            "JPEG files": lambda i: read_entry(entries[i], size),
        }
        rates: dict[str, list[float]] = {name: [] for name in sources}
        for repeat in range(args.repeats + 1):
            for name, read in sources.items():
                found = rate(Batches(read, labels, BATCH, shuffle=True), size)
                if repeat:  # the first of each warms up
                    rates[name].append(found)
    ratios = [b / a for a, b in zip(rates["synthetic"], rates["JPEG files"], strict=True)]
    print(f"resnet18, {size} px, batches of {BATCH}, bf16, {args.images} files of 1800x1200")
    print(f"{'':<12}{'images/s':>10}{'min':>8}{'max':>8}")
    for name, values in rates.items():
        print(f"{name:<12}{statistics.median(values):>10.1f}{min(values):>8.1f}{max(values):>8.1f}")
    fill, check = 1000 * (middle - start) / args.images, 1000 * (end - middle) / args.images
    print(f"filling the cache {fill:.1f} ms an image, finding it warm {check:.1f} ms (once per run)")
    print(
        json.dumps(
            {
                "ratio": round(statistics.median(ratios), 4),
                "ratios": [round(r, 4) for r in ratios],
                "fill_ms": round(fill, 2),
                "check_ms": round(check, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
