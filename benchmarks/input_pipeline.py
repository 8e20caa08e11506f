"""How fast images come from their files, cold and warm, and how much of the rate on synthetic data a training keeps.

python benchmarks/input_pipeline.py [--repeats 3] [--images 192] [--size 224] [--threads 1 2]

Two kinds of files: photographs of 1800x1200, and JPEGs of 256x256 and some 25 kB. For each: seconds to the first batch
of a new training (the measurement that chooses the cache included), images/s of the first epoch, which decodes, and of
the second, by the number of threads; then the training's rate with the cache warm against synthetic data.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.samples import Samples
from tasks.classification.data.subsets import load_subsets
from tasks.classification.models import build_model
from tasks.classification.params import TrainParams
from tasks.classification.training.train import Trainer
from tasks.images.files import n_cores
from tasks.training.batches import Batches
from tasks.training.events import BatchDone

BATCH = 32
CPU = torch.device("cpu")


def make_jpegs(folder: Path, n: int, shape: tuple[int, int], scales: Sequence[int], quality: int) -> list[Path]:
    """Write images (H, W) with structure at several scales, which compress like photographs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = shape
    paths = []
    for i in range(n):
        image = np.zeros((height, width, 3), np.float32)
        for scale in scales:
            coarse = rng.random((height // scale + 1, width // scale + 1, 3), dtype=np.float32)
            image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        path = folder / f"{i:05}.jpg"
        cv2.imwrite(str(path), (image * 255 / len(scales)).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        paths.append(path)
    return paths


def loading(paths: list[Path], cache: Path, size: int, n_threads: int) -> tuple[dict[str, float], Batches, str]:
    """Return first_batch_s, images/s and processor ms an image, cold and warm; the batches; the cache and why."""
    started = time.perf_counter()
    samples = Samples(paths, [i % 2 for i in range(len(paths))])
    parts, why = load_subsets({"train": samples}, ResizeCache(cache, size), n_epochs=10)
    batches = parts["train"].batches(BATCH, shuffle=True, n_workers=n_threads)
    first, rates, cpu_ms = 0.0, [], []
    for epoch in range(2):
        begun, spent = time.perf_counter(), time.process_time()
        for _ in batches.epoch(epoch):
            first = first or time.perf_counter() - started
        rates.append(len(paths) / (time.perf_counter() - begun))
        cpu_ms.append(1000 * (time.process_time() - spent) / len(paths))
    found = {"first_batch_s": first, "cold": rates[0], "warm": rates[1], "cold_ms": cpu_ms[0], "warm_ms": cpu_ms[1]}
    return found, batches, why


def rate(batches: Batches, size: int) -> float:
    """Return images per second of an epoch of training, its validation left out."""
    torch.manual_seed(0)
    params = TrainParams(model="resnet18", pretrained=False, image_size=size, batch_size=BATCH, num_epochs=1)
    trainer = Trainer(build_model("resnet18", 2, size), 2, params, CPU, "bf16")
    start = time.perf_counter()
    for event in trainer.run(batches, batches):
        assert isinstance(event, BatchDone)
        if event.batch == event.n_batches:
            return batches.n_images / (time.perf_counter() - start)
    raise AssertionError("the last batch ends the loop")


def training(batches: Batches, size: int, repeats: int) -> list[float]:
    """Return the ratios of the training's rate on these batches to that on one image in memory, in turn."""
    fixed = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    sides = [Batches(lambda i: fixed, batches.labels.tolist(), BATCH, shuffle=True), batches]
    ratios = []
    for repeat in range(repeats + 1):
        synthetic, files = (rate(side, size) for side in sides)
        print(f"  training: {synthetic:.1f} images/s on synthetic data, {files:.1f} on files", flush=True)
        if repeat:  # the first warms up
            ratios.append(files / synthetic)
    return ratios


def main() -> None:
    """Measure both kinds of files and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="of the training; 0: loading alone")
    parser.add_argument("--images", type=int, default=192, help="large ones; of the small ones eight times as many")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, n_cores()}))
    args = parser.parse_args()
    print(f"resnet18, {args.size} px, batches of {BATCH}, bf16")
    figures: dict[str, object] = {}
    kinds = {
        "large": (args.images, (1200, 1800), (8, 60, 300), 95),
        "small": (8 * args.images, (256, 256), (3, 16, 60), 90),
    }
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        for kind, (n, shape, scales, quality) in kinds.items():
            paths = make_jpegs(Path(tmp) / kind / "train" / "a", n, shape, scales, quality)
            n_bytes = statistics.mean(path.stat().st_size for path in paths)
            print(f"{kind}: {n} files of {shape[1]}x{shape[0]}, {n_bytes / 1000:.0f} kB each")
            for n_threads in args.threads:
                found, batches, why = loading(paths, Path(tmp) / f"cache-{kind}-{n_threads}", args.size, n_threads)
                print(
                    f"  {n_threads} thread(s): first batch {found['first_batch_s']:.2f} s, "
                    f"cold {found['cold']:.0f} images/s ({found['cold_ms']:.2f} ms of processor time each), "
                    f"warm {found['warm']:.0f} images/s ({found['warm_ms']:.2f} ms)\n  {why}"
                )
                figures[f"{kind}_{n_threads}"] = {name: round(value, 3) for name, value in found.items()}
            if args.repeats:
                ratios[kind] = training(batches, args.size, args.repeats)
    shown = {"ratio": round(statistics.median(ratios["large"]), 4)} if ratios else {}
    each = {f"ratios_{kind}": [round(ratio, 4) for ratio in values] for kind, values in ratios.items()}
    print(json.dumps({**shown, **each, **figures}))


if __name__ == "__main__":
    main()
