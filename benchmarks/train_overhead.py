"""What the whole train step costs over a bare PyTorch loop: same model, same pixels, same process, in turn.

The step decodes from the cache, counts its metrics, writes checkpoints, ships to MLflow and shows progress in Prefect;
the bare loop has everything in memory and keeps nothing but a loss. Both validate once per epoch.

    python benchmarks/train_overhead.py [--repeats 3] [--images 2880] [--epochs 4]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

HOME = tempfile.mkdtemp(prefix="trainyard-bench-")
os.environ["TRAINYARD_HOME"] = HOME
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deployments.machine.environment import prepare_environment  # noqa: E402

prepare_environment()
os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"

from deployments.stack.stack import choose_api, serving  # noqa: E402

SIZE, BATCH, CLASSES = 64, 64, 5


def make_images(root: Path, n_train: int, n_val: int) -> None:
    """Write noise with a tint per class, as JPEG files of the size trained on."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("val", n_val)):
        for i in range(n):
            image = rng.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
            image[..., i % 3] += 10 * (i % CLASSES)
            folder = root / part / f"class{i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{i:05}.jpg"), image)


def bare_loop(train: list[Any], val: list[Any], epochs: int, precision: str) -> None:
    """Train as a short script would, on tensors in memory."""
    import torch
    import torch.nn.functional as F

    from tasks.classification.models import build_model

    torch.manual_seed(0)
    model = build_model("resnet18", CLASSES).to(memory_format=torch.channels_last)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    for _ in range(epochs):
        model.train()
        for x, y in train:
            with autocast():
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode(), autocast():
            for x, y in val:
                F.cross_entropy(model(x).float(), y)


def tensors(root: Path, part: str) -> list[Any]:
    """Return the part as normalised batches in memory."""
    import torch

    from tasks.classification.data.samples import read_classes, read_subset
    from tasks.images.images import read_rgb
    from tasks.training.batches import Batches, Normalise

    samples = read_subset(root, part, read_classes(root))
    images = [read_rgb(path) for path in samples.paths]
    normalise = Normalise(torch.device("cpu"))
    batches = Batches(lambda i: images[i], samples.labels, BATCH)
    return [(normalise(x).contiguous(memory_format=torch.channels_last), y) for x, y in batches.epoch(0)]


def fastest_precision() -> Any:
    """Return what the step would choose on this machine: bf16 crawls where the CPU does not have it."""
    import torch

    from tasks.classification.models import build_model
    from tasks.training.precision import choose_precision

    device, folder = torch.device("cpu"), Path(HOME) / "precision"
    build = partial(build_model, "resnet18", CLASSES, SIZE)
    return choose_precision("auto", device, build, (BATCH, SIZE), folder, "resnet18")[0]


def main() -> None:
    """Run both in turn and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=2880)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    api = choose_api()
    assert api is not None, "unset PREFECT_API_URL: the benchmark brings its own server"
    from prefect import flow

    from tasks.classification import steps
    from tasks.classification.params import EvaluateParams, TrackParams, TrainParams

    root = Path(HOME) / "data"
    make_images(root, args.images, args.images // 6)
    train, val = tensors(root, "train"), tensors(root, "val")
    precision = fastest_precision()
    params = TrainParams(
        pretrained=False, image_size=SIZE, batch_size=BATCH, num_epochs=args.epochs, precision=precision, device="cpu"
    )
    seconds: dict[str, list[float]] = {"bare loop": [], "train step": []}

    @flow
    def bench() -> None:
        for repeat in range(args.repeats + 1):  # the first of each, a short one, warms caches and kernels
            epochs = args.epochs if repeat else 1
            start = time.perf_counter()
            bare_loop(train, val, epochs, precision)
            middle = time.perf_counter()
            steps.train(
                root,
                params.model_copy(update={"num_epochs": epochs}),
                EvaluateParams(),
                TrackParams(),
                f"repeat-{repeat}",
            )
            end = time.perf_counter()
            if repeat:
                seconds["bare loop"].append(middle - start)
                seconds["train step"].append(end - middle)

    with serving(api):
        bench()
    n = args.images * args.epochs
    rates = {name: [n / s for s in times] for name, times in seconds.items()}
    ratios = [b / s for b, s in zip(seconds["bare loop"], seconds["train step"], strict=True)]
    print(f"resnet18, {SIZE} px, batches of {BATCH}, {precision}, {args.images} images, {args.epochs} epochs")
    print(f"{'':<12}{'images/s':>10}{'min':>8}{'max':>8}")
    for name, values in rates.items():
        print(f"{name:<12}{statistics.median(values):>10.1f}{min(values):>8.1f}{max(values):>8.1f}")
    print(
        json.dumps(
            {
                "ratio": round(statistics.median(ratios), 4),
                "ratios": [round(r, 4) for r in ratios],
                "images_per_s": {name: round(statistics.median(v), 1) for name, v in rates.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
