"""The files a training goes on from: written whole, and only taken up by a training of the same result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import replacing
from tasks.classification.params import TrainParams

# What may change between a crash and the resumption without changing the result.
FREE_TO_CHANGE = frozenset({"device", "n_workers", "checkpoint_every_s", "keep_every_epoch", "task_id", "description"})


def fingerprint(params: TrainParams, data_digest: str) -> dict[str, str]:
    """Return what the result depends on, as text."""
    values = params.model_dump(mode="json", exclude=set(FREE_TO_CHANGE))
    return {"data": data_digest, **{key: json.dumps(value) for key, value in values.items()}}


def read_checkpoint(path: Path, now: Mapping[str, str]) -> dict[str, Any]:
    """Return what a training saved.

    Args:
        path: of the file.
        now: the fingerprint of the training that wants to go on.

    Raises:
        ConfigError: the checkpoint belongs to other parameters or other data.
        StorageError: it is damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises half a dozen kinds for a file that is damaged
        raise StorageError(f"the checkpoint {path} cannot be read ({exc}): remove it to start anew") from exc
    then = saved["fingerprint"]
    changed = [
        f"{key} {then.get(key, 'none')} -> {now.get(key, 'none')}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]
    if changed:
        raise ConfigError(f"the checkpoint {path} belongs to another training ({'; '.join(changed)}): start a new run")
    return saved


def sweep(folder: Path, best_file: str | None) -> None:
    """Remove what a killed attempt left: files half written, and weights that no checkpoint points to."""
    for pattern in (".*.pt.*", "epochs/.*.pt.*", "best-*.pt"):
        for path in folder.glob(pattern):
            if path.name != best_file:
                path.unlink(missing_ok=True)


def save_tensors(path: Path, value: Any) -> None:
    """Write what torch.save writes, atomically."""
    with replacing(path) as file:
        torch.save(value, file)
