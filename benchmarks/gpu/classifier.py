"""The limit that a classifier's training is held against: a plain loop on random tensors that lie on the device.

python benchmarks/gpu/classifier.py resnet50 --batch 256 [--rehearse]
"""

import argparse
import json
import time

import torch
import torchvision
from torch import nn


def rate(name: str, batch: int, side: int, steps: int, device: torch.device) -> tuple[float, float | None]:
    """Return images/s in bf16 with fused Adam, and the peak of the GPU's memory in GiB."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(min(10, steps)):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return steps * batch / seconds, peak


def main() -> None:
    """Measure and print the figures as JSON."""
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
