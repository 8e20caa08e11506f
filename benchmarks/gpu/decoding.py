"""What decoding on the GPU would bring a prediction: JPEG files of 1800x1200 to 224 px, by all cores and by the GPU.

    python benchmarks/gpu/decoding.py [--rehearse]

`ratio` is the GPU's images/s (nvJPEG through torchvision) by ours on the cores, which a prediction does today.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tasks.images.decoding import decode, resize_rgb
from tasks.images.files import n_cores, one_cv2_thread

SIDE, BATCH, WIDTH, HEIGHT = 224, 64, 1800, 1200


def files(n: int) -> list[bytes]:
    """Return JPEG files that differ, each about half a megabyte."""
    found = []
    for number in range(n):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 24, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        found.append(cv2.imencode(".jpg", cv2.add(image, noise), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    return found


def on_cores(data: bytes) -> Tensor:
    """Return (224, 224, 3) uint8, as a prediction makes it."""
    return torch.from_numpy(resize_rgb(decode(data, min_side=SIDE), SIDE))


def on_device(data: list[Tensor], device: torch.device) -> Tensor:
    """Return (B, 224, 224, 3) uint8 of the device."""
    found = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    images = torch.stack(found if isinstance(found, list) else [found]).float()
    return F.interpolate(images, (SIDE, SIDE), mode="area").round().to(torch.uint8).permute(0, 2, 3, 1)


def rate(call: Callable[[], object], n_images: int, rounds: int) -> float:
    """Return images/s, the best of some rounds, the first of which does not count."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return n_images / min(seconds[1:])


def main() -> None:
    """Measure both, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, few images")
    given = parser.parse_args()
    device = torch.device("cpu" if given.rehearse else "cuda")
    stored = files(8 if given.rehearse else BATCH)
    rounds, repeat = (1, 1) if given.rehearse else (3, 16)
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in stored]
    batch: list[Tensor] = []

    def theirs() -> None:
        for _ in range(repeat):
            batch[:] = [on_device(tensors, device)]
        if device.type == "cuda":
            torch.cuda.synchronize()

    with one_cv2_thread(), ThreadPoolExecutor(n_cores()) as pool:
        ours = rate(lambda: list(pool.map(on_cores, stored * repeat)), len(stored) * repeat, rounds)
    other = rate(theirs, len(stored) * repeat, rounds)
    off = (batch[0].cpu().float() - torch.stack([on_cores(data) for data in stored]).float()).abs()
    found = {"cores": n_cores(), "cores_images_s": round(ours, 1), "device_images_s": round(other, 1)}
    worst = {"mean_off": round(float(off.mean()), 3), "most_off": float(off.max())}
    print(json.dumps({**found, **worst, "ratio": round(other / ours, 2)}))


if __name__ == "__main__":
    main()
