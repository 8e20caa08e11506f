"""Chooses how many threads a training on the CPU computes in, by what else the machine does."""

import os
import time

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 6  # of each number of threads, in turn: a slice of time that another program has is some milliseconds
_LONGEST_S = 4.0  # of the whole measurement: with ten programs on two cores a single step may take a second
_WORTH = 1.5  # times faster that fewer threads must be; fewer than that may be chance, and all threads are the rule


def choose_threads() -> str:
    """Set the number of threads to all cores, or to fewer where other programs compute; return a sentence on it, or "".

    Threads that share an operation wait for one another at its end, by turning in a loop. Where another program has the
    core of one of them, all others turn until it comes back. Measured on two cores that eight other processes used: a
    training step in two threads took 6 to 40 times as long as in one.
    """
    n_cores = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    if n_cores == 1:
        return ""
    seconds = _measured([n_cores >> k for k in range(n_cores.bit_length())])
    best = min(seconds, key=lambda n: seconds[n])
    if best == n_cores or seconds[n_cores] < _WORTH * seconds[best]:
        torch.set_num_threads(n_cores)
        return ""
    torch.set_num_threads(best)
    figures = ", ".join(f"{1000 * value:.0f} ms in {n}" for n, value in sorted(seconds.items()))
    return f"computes in {best} of {n_cores} threads, because other programs use the CPU: a step took {figures}"


def _measured(counts: list[int]) -> dict[int, float]:
    """Return the mean seconds of a step in each number of threads, all of them in turn."""
    state = torch.get_rng_state()
    images, weights = torch.randn(32, 32, 16, 16), torch.randn(32, 32, 3, 3, requires_grad=True)
    torch.set_rng_state(state)
    images = images.contiguous(memory_format=torch.channels_last)
    sums, n_rounds, started = dict.fromkeys(counts, 0.0), 0, time.perf_counter()
    for n in counts:
        _step_s(n, images, weights)  # builds kernels and threads
    while n_rounds < _STEPS and time.perf_counter() - started < _LONGEST_S:
        for n in counts:
            sums[n] += _step_s(n, images, weights)
        n_rounds += 1
    return {n: total / max(n_rounds, 1) for n, total in sums.items()}


def _step_s(n_threads: int, images: Tensor, weights: Tensor) -> float:
    """Return the seconds of what a training does most: some convolutions, forwards and backwards."""
    torch.set_num_threads(n_threads)
    started = time.perf_counter()
    for _ in range(4):
        F.conv2d(images, weights, padding=1).relu().sum().backward()
    return time.perf_counter() - started
