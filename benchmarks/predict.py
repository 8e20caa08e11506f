"""How much of the model's rate on prepared tensors a prediction keeps on JPEG files of 1800x1200, and its memory.

python benchmarks/predict.py [--repeats 3] [--images 192] [--size 224] [--memory 10000]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.base.progress import finish
from tasks.classification.models import build_model
from tasks.images.params import PrepareParams
from tasks.images.prepare import read_prepared
from tasks.inference.predictor import Predictor, answers, stacked
from tasks.inference.result import collecting, now_s
from tasks.inference.sources import jobs, open_source
from tasks.inference.weights import ModelFiles
from tasks.signals.params import SpectrogramParams

BATCH = 32
CLASSES = ["a", "b"]


def make_jpegs(folder: Path, n: int, n_different: int = 64) -> None:
    """Write images of 1800x1200 with structure at several scales, which compress like photographs; the rest links."""
    rng = np.random.default_rng(0)
    for i in range(min(n, n_different)):
        image = np.zeros((1200, 1800, 3), np.float32)
        for scale in (8, 60, 300):
            coarse = rng.random((1200 // scale + 1, 1800 // scale + 1, 3), dtype=np.float32)
            image += cv2.resize(coarse, (1800, 1200), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(folder / f"{i:05}.jpg"), (image * 85).astype(np.uint8))
    for i in range(n_different, n):
        os.link(folder / f"{i % n_different:05}.jpg", folder / f"{i:05}.jpg")


def end_to_end(folder: Path, predictor: Predictor, size: int, watch: list[int] | None = None) -> float:
    """Return images per second from the folder to the tables; `watch` gets the resident bytes after every batch."""
    started = time.perf_counter()
    source = open_source(folder, SpectrogramParams())
    todo = jobs(source, 1, SpectrogramParams(), PrepareParams(), size)
    files = ModelFiles(folder, {"classes": CLASSES}, "bench", None)
    process = psutil.Process()
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as out:
        batches = answers(todo, predictor, size, BATCH)
        work = collecting(batches, files, Path(out), len(source.images), now_s)
        if watch is None:
            finish(work)
        else:
            watch.extend(process.memory_info().rss for _ in work)
    return len(source.images) / (time.perf_counter() - started)


def model_alone(predictor: Predictor, tensors: list[torch.Tensor]) -> float:
    """Return images per second of the model on prepared tensors."""
    started = time.perf_counter()
    for batch in tensors:
        predictor(batch)
    return sum(len(batch) for batch in tensors) / (time.perf_counter() - started)


def measure_memory(n: int) -> dict[str, float]:
    """Return by how much resident memory grows from the tenth to the last batch of `n` images, MiB."""
    size = 32  # the model's share is not what is measured
    predictor = Predictor(build_model("mobilenet_v3_small", 2, size).eval(), torch.device("cpu"), "fp32")
    seen: list[int] = []
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        make_jpegs(Path(tmp), n)
        end_to_end(Path(tmp), predictor, size, seen)
    settled = min(10, len(seen) - 1)
    return {
        "pictures": n,
        "rss_mib": round(seen[settled] / 2**20, 1),
        "growth_mib": round((seen[-1] - seen[settled]) / 2**20, 1),
        "peak_growth_mib": round((max(seen) - seen[settled]) / 2**20, 1),
    }


def main() -> None:
    """Measure both in turn and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--memory", type=int, default=10_000, help="images for the memory figure; 0: none")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = build_model("resnet18", 2, args.size).to(memory_format=torch.channels_last).eval()
    predictor = Predictor(model, torch.device("cpu"), "fp32")
    rates: dict[str, list[float]] = {"model alone": [], "end to end": []}
    cpu_ms: dict[str, list[float]] = {"model alone": [], "end to end": []}  # of all threads, per image
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        make_jpegs(Path(tmp), args.images)
        paths = sorted(Path(tmp).iterdir())
        sized = (cv2.resize(read_prepared(p, PrepareParams(), args.size), (args.size, args.size)) for p in paths)
        pixels = [np.asarray(image, dtype=np.uint8) for image in sized]
        tensors = [stacked(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        sides = {
            "model alone": lambda: model_alone(predictor, tensors),
            "end to end": lambda: end_to_end(Path(tmp), predictor, args.size),
        }
        for repeat in range(args.repeats + 1):
            for name, measure in sides.items():
                before = time.process_time()
                rate, spent = measure(), time.process_time() - before
                if repeat:  # the first of each warms up
                    rates[name].append(rate)
                    cpu_ms[name].append(1000 * spent / len(paths))
    ratios = [b / a for a, b in zip(rates["model alone"], rates["end to end"], strict=True)]
    cpu_ratios = [a / b for a, b in zip(cpu_ms["model alone"], cpu_ms["end to end"], strict=True)]
    print(f"resnet18, {args.size} px, batches of {BATCH}, fp32, {args.images} files of 1800x1200")
    for name, values in rates.items():
        spread = f"({min(values):.1f} to {max(values):.1f})"
        cpu = statistics.median(cpu_ms[name])
        print(f"{name:<12}{statistics.median(values):>8.1f} images/s {spread}, {cpu:.1f} ms of processor time each")
    memory = measure_memory(args.memory) if args.memory else {}
    if memory:
        print(f"memory grows by {memory['growth_mib']} MiB over {args.memory} images")
    # Processor time says what the images cost beside the model also where other processes take the cores.
    figures = {"ratio": ratios, "cpu_ratio": cpu_ratios}
    shown = {name: round(statistics.median(values), 4) for name, values in figures.items()}
    print(json.dumps({**shown, "ratios": [round(r, 4) for r in ratios], **memory}))


if __name__ == "__main__":
    main()
