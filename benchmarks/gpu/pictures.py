"""Makes JPEG files of ten classes, 320x256, on all cores: pictures.py FOLDER N."""

import sys
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np


def make(job: tuple[Path, int]) -> None:
    """Write one image: noise, and a disc whose size and colour are its class."""
    folder, number = job
    rng, label = np.random.default_rng(number), number % 10
    coarse = rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (320, 256), interpolation=cv2.INTER_CUBIC)
    place = int(rng.integers(60, 260)), int(rng.integers(60, 196))
    cv2.circle(picture, place, 12 + 4 * label, (label * 25, 255 - label * 25, 128), -1)
    picture = cv2.add(picture, rng.integers(0, 12, (256, 320, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / f"c{label}" / f"{number:06}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])


if __name__ == "__main__":
    root, n = Path(sys.argv[1]), int(sys.argv[2])
    for label in range(10):
        (root / f"c{label}").mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    with Pool() as pool:
        pool.map(make, [(root, number) for number in range(n)], chunksize=64)
