"""The limit that a classifier's training is held against: a plain loop on random tensors that lie on the device.

python benchmarks/gpu/classifier.py resnet50 --batch 256 [--rehearse]
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tasks.trial.plain import PlainLoop


def rate(name: str, batch: int, side: int, steps: int, device: torch.device) -> tuple[float, float | None]:
    """Return images/s in bf16 with fused Adam, and the peak of the GPU's memory in GiB."""
    torch.manual_seed(0)
    loop = PlainLoop(name, batch, side, device, "bf16")
    loop.run(min(10, steps))
    seconds = loop.run(steps)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return steps * batch / seconds, peak


def main() -> None:
    """Measure and print the metrics as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, two steps")
    given = parser.parse_args()
    device = torch.device("cpu" if given.rehearse else "cuda")
    images_s, peak = rate(given.model, given.batch, given.side, 2 if given.rehearse else 60, device)
    found = {"model": given.model, "batch": given.batch, "images_s": round(images_s, 1), "peak_gib": peak}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
