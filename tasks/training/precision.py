"""Measures which number format is fastest on a device, once for each machine and model."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from tasks.base.errors import ConfigError
from tasks.base.workspace import write_json

Precision = Literal["fp32", "bf16", "fp16"]
_HOPELESS = 4.0
"""Times slower in its first step: a CPU that has to emulate bf16 is, and building kernels takes far less."""

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context of `precision`."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def choose_precision(
    wanted: str,
    device: torch.device,
    build: Callable[[], nn.Module],
    batch: tuple[int, int],
    cache: Path,
    key: str,
) -> tuple[Precision, str]:
    """Return the precision to train with, and a sentence on why.

    On a CPU, "auto" times a few steps of both formats and writes the answer down, so that a second run on the same
    machine takes the same one: a choice that changes between runs would change their results.

    Args:
        wanted: "auto" or a precision.
        build: makes a model to time.
        batch: images in a batch and their side in pixels.
        cache: folder of the answers.
        key: names the model.

    Raises:
        ConfigError: fp16 on a CPU, whose gradients vanish without the loss scaling that only GPUs do here.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; use bf16, fp32 or auto on the CPU")
    if wanted != "auto":
        return _as_precision(wanted), f"precision {wanted}, as asked"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "precision bf16: the GPU computes in it"
        return "fp16", "precision fp16: the GPU has no bf16"
    return _measured(build, batch, cache, key)


def _as_precision(name: str) -> Precision:
    for known in DTYPES:
        if name == known:
            return known
    raise ConfigError(f"found precision {name!r}, need auto, fp32, bf16 or fp16")


def _measured(build: Callable[[], nn.Module], batch: tuple[int, int], cache: Path, key: str) -> tuple[Precision, str]:
    n_images, size = min(batch[0], 32), batch[1]
    where = f"{_cpu_name()}|{torch.__version__}|{torch.get_num_threads()}|{key}|{n_images}|{size}"
    path = cache / f"{hashlib.sha256(where.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        seconds = json.loads(path.read_text())["seconds"]
    else:
        seconds = _time_both(build, n_images, size)
        write_json(path, {"what": where, "seconds": seconds})
    # At least a tenth faster: smaller differences are noise of the measurement, and fp32 is the safer format.
    best: Precision = "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"
    figures = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
    return best, f"precision {best}: measured per step of {n_images} images: {figures}"


def _time_both(build: Callable[[], nn.Module], n_images: int, size: int) -> dict[str, float]:
    """Return the seconds of a training step in each format, the best of three, interleaved; of one where that tells."""
    state = torch.get_rng_state()
    model = build().to(memory_format=torch.channels_last).train()
    images = torch.randn(n_images, 3, size, size).contiguous(memory_format=torch.channels_last)
    seconds = {"fp32": float("inf"), "bf16": float("inf")}
    took = dict(seconds)
    device = torch.device("cpu")
    for attempt in range(4):
        for name in ("fp32", "bf16"):
            start = time.perf_counter()
            with autocast(device, _as_precision(name)):
                loss = F.cross_entropy(model(images).float(), torch.zeros(n_images, dtype=torch.int64))
            loss.backward()
            model.zero_grad()
            took[name] = time.perf_counter() - start
        if attempt:  # the first of each builds its kernels
            seconds = {name: min(seconds[name], took[name]) for name in seconds}
        elif took["bf16"] > _HOPELESS * took["fp32"]:
            seconds = took
            break
    torch.set_rng_state(state)
    return seconds


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} x{os.cpu_count()}"
    return f"{platform.processor()} x{os.cpu_count()}"
