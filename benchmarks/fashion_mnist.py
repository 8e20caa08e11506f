"""Write Fashion-MNIST (Debian package dataset-fashion-mnist) as folders of PNG files: train, val and test.

The last 5,000 of the 60,000 training images become val; test are the published 10,000.

    apt-get install dataset-fashion-mnist
    python benchmarks/fashion_mnist.py FOLDER
    yard run classification --data FOLDER -f benchmarks/fashion_mnist.yaml
"""

import argparse
import gzip
from pathlib import Path

import cv2
import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
N_VAL = 5000


def read_idx(path: Path) -> np.ndarray:
    """Return the array in an IDX file of bytes, gzipped or not."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    n_dimensions = data[3]
    shape = np.frombuffer(data, ">u4", n_dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


def find(stem: str) -> Path:
    """Return the file of the package, which may be gzipped."""
    found = sorted(SOURCE.rglob(f"{stem}*"))
    if not found:
        raise SystemExit(f"found no {stem} in {SOURCE}: apt-get install dataset-fashion-mnist")
    return found[0]


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = read_idx(find(f"{prefix}-images")), read_idx(find(f"{prefix}-labels"))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            part = "val" if name == "train" and i >= len(images) - N_VAL else name
            path = folder / part / CLASSES[label] / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
        print(f"{name}: {len(images)} images")


if __name__ == "__main__":
    main()
