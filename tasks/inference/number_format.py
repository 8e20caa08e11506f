"""Chooses the number format in which a model answers fastest, measured where that pays."""

import hashlib
import json
import platform
import time
from pathlib import Path

import torch
from torch import nn

from tasks.base.workspace import write_json
from tasks.inference.predictor import Predictor
from tasks.training.precision import Precision, choose_precision

MEASURED_FROM = 1024  # images; for fewer, measuring takes longer than it can save
_N_IMAGES = 16
_HOPELESS = 4.0
"""Times slower in its first batch: a CPU that has to emulate bf16 is."""


def choose_format(
    wanted: str, model: nn.Module, device: torch.device, size: int, n_images: int, *, cache: Path, key: str
) -> tuple[Precision, str]:
    """Return the format to answer in, and a sentence on why.

    Args:
        wanted: "auto" or a format.
        model: on the device, in evaluation mode.
        device: to compute on.
        size: side of the images, pixels.
        n_images: to come.
        cache: folder of what was measured before.
        key: names the model.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if wanted != "auto" or device.type != "cpu":
        return choose_precision(wanted, device, lambda: model, (_N_IMAGES, size), cache, key)
    where = f"inference|{platform.processor()}|{torch.backends.cpu.get_cpu_capability()}|{torch.__version__}|"
    where += f"{torch.get_num_threads()}|{key}|{size}"
    path = cache / f"{hashlib.sha256(where.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        seconds = json.loads(path.read_text())["seconds"]
    elif n_images < MEASURED_FROM:
        return "fp32", f"precision fp32: not worth measuring for {n_images} image(s)"
    else:
        seconds = _time_both(model, size)
        write_json(path, {"what": where, "seconds": seconds})
    # At least a tenth faster: smaller differences are noise of the measurement, and fp32 is the safer format.
    best: Precision = "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"
    figures = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
    return best, f"precision {best}: measured per {_N_IMAGES} images: {figures}"


def _time_both(model: nn.Module, size: int) -> dict[str, float]:
    """Return the seconds of a batch in each format: of the better of two, after one to warm up."""
    images = torch.zeros(_N_IMAGES, 3, size, size, dtype=torch.uint8)
    formats: tuple[Precision, Precision] = ("fp32", "bf16")
    predictors = {name: Predictor(model, torch.device("cpu"), name) for name in formats}
    seconds: dict[str, float] = {name: _timed(predictors[name], images) for name in formats}
    if seconds["bf16"] > _HOPELESS * seconds["fp32"]:
        return seconds
    rounds = [{name: _timed(predictors[name], images) for name in formats} for _ in range(2)]
    return {name: min(found[name] for found in rounds) for name in formats}


def _timed(predictor: Predictor, images: torch.Tensor) -> float:
    started = time.perf_counter()
    predictor(images)
    return time.perf_counter() - started
