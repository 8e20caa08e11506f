"""Compares a training that was killed and resumed with one that was not, bit for bit."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from tasks.base.progress import Note
from tasks.classification.params import TrainParams
from tasks.classification.training.session import TrainingSession
from tasks.training.events import BatchDone
from tasks.trial.processes import Speaker, TrialError
from tasks.trial.report import CheckResult, Place, checked

_SIDE, _BATCH, _EPOCHS, _N_TRAIN, _N_VAL = 32, 4, 3, 24, 8
_KILL_AT = 14  # batches, of 18: in the third epoch
_LIMIT_S = 60.0


def killed_and_resumed(where: Place, folder: Path) -> Iterator[CheckResult]:
    """Train once in one go; once in a process that SIGKILL ends in the middle, and on from there in this one."""
    data, whole, cut = folder / "pictures", folder / "whole", folder / "cut"
    make_images(data)
    train(where.kind, data, whole)
    with Speaker("tasks.trial.resume", where.kind, str(data), str(cut), log=folder / "resume.log") as speaker:
        speaker.hear(_LIMIT_S)
        ended = speaker.wait()
    if ended != -signal.SIGKILL:
        raise TrialError(speaker.ended())
    note = train(where.kind, data, cut)
    yield resumed_row(_weights(whole), _weights(cut), note)


def resumed_row(whole: dict[str, Tensor], resumed: dict[str, Tensor], note: str) -> CheckResult:
    """Return the row of two trainings' weights; `note` says from where the second went on."""
    off = {name: float((whole[name] - resumed[name]).abs().max()) for name in whole if name in resumed}
    unequal = [name for name in whole if name not in resumed or not torch.equal(whole[name], resumed[name])]
    figure = f"killed by SIGKILL after {_KILL_AT} of {_EPOCHS * _N_TRAIN // _BATCH} batches, {note or 'not gone on'}: "
    figure += "the same weights, bit for bit" if not unequal else f"{len(unequal)} of {len(whole)} tensors differ"
    todo = (
        "trainings that crash here do not end as they would have: look for other libraries of CUDA than torch's own"
        if note
        else "the checkpoint was not found again: look at the disk that TRAINYARD_HOME is on"
    )
    worst = max(off.values(), default=0.0)
    return checked("killed and resumed", bool(note) and not unequal, figure, todo, unequal=len(unequal), largest=worst)


def _weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    return weights


def make_images(root: Path) -> None:
    """Write two classes of noise with a tint, split into train and val."""
    random = np.random.default_rng(0)
    for part, n in (("train", _N_TRAIN), ("val", _N_VAL)):
        for index in range(n):
            image = random.integers(0, 200, (_SIDE, _SIDE, 3), dtype=np.uint8)
            image[..., index % 2] += 40
            folder = root / part / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index:03}.png"), image)


def train(kind: str, data: Path, folder: Path, kill_at: int = 0) -> str:
    """Train in a folder, deterministic, and return from where it went on, "" where it began.

    Args:
        kind: of the device, cuda or cpu.
        data: train/ and val/.
        folder: of the training.
        kill_at: after so many batches the process says so and ends by SIGKILL; 0: never.
    """
    params = TrainParams(
        model="mobilenet_v3_small",  # its dropout draws numbers; small, as it is written often
        pretrained=False,
        image_size=_SIDE,
        batch_size=_BATCH,
        num_epochs=_EPOCHS,
        mixup=0.2,
        ema_decay=0.9,
        precision="fp32",
        device="cuda" if kind == "cuda" else "cpu",
        deterministic=True,
        checkpoint_every_s=0.1,
    )
    cache = folder.parent / "cache"
    session = TrainingSession(
        data, folder, params, torch.device(kind), cache=cache, clock_ms=lambda: time.time_ns() // 10**6
    )
    n_batches, note = 0, ""
    for event in session.run():
        if isinstance(event, Note) and event.text.startswith("goes on at"):
            note = event.text.partition(", from")[0]
        n_batches += isinstance(event, BatchDone)
        if kill_at and n_batches == kill_at:
            print(json.dumps({"batches": n_batches}), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return note


def main() -> None:
    """Train until it is killed: `KIND DATA FOLDER`."""
    kind, data, folder = sys.argv[1:]
    train(kind, Path(data), Path(folder), _KILL_AT)


if __name__ == "__main__":
    main()
