"""A training on cores that other programs use, too: the number of threads that is chosen, against all threads.

Both sides train a ResNet-18 on 64 px images, in turns, while twice as many processes as there are cores compute without
end. The last line is JSON; `ratio` is our images/s by those of torch's default, all cores.

    python benchmarks/busy_cpu.py [--seconds 10] [--rounds 3]
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision

from tasks.training.threads import choose_threads

BATCH, SIDE = 32, 64


def compute() -> None:
    """Use a core without end."""
    number = 1
    while True:
        number = number * 3 % 1_000_003


def images_per_s(step: Callable[[], None], seconds: float) -> float:
    """Return the rate over at least so many seconds."""
    step()
    started, n = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        n += BATCH
    return n / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each side in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0))
    model = torchvision.models.resnet18(num_classes=10).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        F.cross_entropy(model(images), torch.zeros(BATCH, dtype=torch.int64)).backward()
        optimizer.step()
        optimizer.zero_grad()

    others = [multiprocessing.Process(target=compute, daemon=True) for _ in range(2 * n_cores)]
    for other in others:
        other.start()
    rates: dict[str, list[float]] = {"ours": [], "all threads": []}
    try:
        for _ in range(options.rounds):
            torch.set_num_threads(n_cores)
            rates["all threads"].append(images_per_s(step, options.seconds))
            print(choose_threads() or "computes in all threads")
            rates["ours"].append(images_per_s(step, options.seconds))
    finally:
        for other in others:
            other.terminate()
    for name, values in rates.items():
        print(f"{name:<12}{statistics.median(values):>8.1f} images/s")
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["all threads"], strict=True))
    print(json.dumps({"ratio": round(ratio, 2), "cores": n_cores, "others": len(others)}))


if __name__ == "__main__":
    main()
