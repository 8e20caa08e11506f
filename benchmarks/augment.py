"""Files/s of `augment_dataset` against the sum of the bare operations: decode, six albumentations calls, six encodes.

Both sides work on the same generated images with the same number of threads, in turns. The last line is
JSON; `ratio` is the share of the bare rate that is reached, planning, linking, seeding and writing files
included.

    python benchmarks/augment.py [--images 24] [--rounds 5]
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from tasks.classification.data.augment import augment_dataset, build_transforms
from tasks.classification.params import ALL_METHODS, AugmentParams
from tasks.images.files import n_cores
from tasks.images.images import write_jpeg

SIDE = 512


def make_dataset(root: Path, n_images: int) -> list[Path]:
    """Write images of blurred noise with a few lines, which compress about like spectrograms."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n_images):
        rgb = cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), (0, 0), 1.5)
        for row in rng.integers(0, SIDE, 6):
            cv2.line(rgb, (0, int(row)), (SIDE, int(row)), (250, 220, 40), 3)
        path = root / "train" / f"class{i % 2}" / f"{i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(path, rgb.astype(np.uint8, copy=False), quality=95)
        paths.append(path)
    return paths


def bare(paths: list[Path], params: AugmentParams, n_workers: int) -> float:
    """Return the seconds the operations take when nothing is planned, seeded, named or written."""
    chunks = [paths[i::n_workers] for i in range(n_workers)]
    sets = [build_transforms(params) for _ in chunks]

    def work(i: int) -> None:
        for path in chunks[i]:
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
            for transform in sets[i].values():
                altered = cv2.cvtColor(transform(image=image)["image"], cv2.COLOR_RGB2BGR)
                cv2.imencode(".jpg", altered, [cv2.IMWRITE_JPEG_QUALITY, params.quality])

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(n_workers) as pool:
        start = time.perf_counter()
        list(pool.map(work, range(n_workers)))
        return time.perf_counter() - start


def ours(source: Path, params: AugmentParams) -> float:
    """Return the seconds of the whole step."""
    with tempfile.TemporaryDirectory(dir=source.parent) as target:
        start = time.perf_counter()
        augment_dataset(source, Path(target), params)
        return time.perf_counter() - start


def compare(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Return the files/s of both sides in every round."""
    params = AugmentParams(n_workers=options.workers)
    paths = make_dataset(folder / "split", options.images)
    n_files = options.images * len(ALL_METHODS)
    bare(paths, params, options.workers)  # the first call of each operation is slower
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(options.rounds):
        rates["bare"].append(n_files / bare(paths, params, options.workers))
        rates["ours"].append(n_files / ours(folder / "split", params))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=n_cores())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = compare(options, Path(folder))
    print(f"{options.images} images of {SIDE} px, {options.workers} threads, {options.rounds} rounds")
    print("files/s          median   lowest  highest")
    for name, values in rates.items():
        print(f"{name:<14}{statistics.median(values):>9.1f}{min(values):>9.1f}{max(values):>9.1f}")
    # Neighbours in time share what else the machine did; their ratio is steadier than that of the medians.
    ratios = [a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)]
    medians = {f"{name}_files_per_s": round(statistics.median(values), 1) for name, values in rates.items()}
    print(json.dumps({"ratio": round(statistics.median(ratios), 3), **medians, "workers": options.workers}))


if __name__ == "__main__":
    main()
