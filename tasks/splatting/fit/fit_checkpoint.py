"""The files a fit goes on from: written whole, and only taken up by a fit of the same result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import replacing
from tasks.splatting.params import SplatParams

# What may change between a crash and the resumption without changing what the fit is of. On another kind of device the
# figures differ in their last digits, as those of any two GPUs do; on the CPU they are the same bit for bit.
FREE_TO_CHANGE = frozenset({"device", "num_threads", "min_psnr"})


def fingerprint(params: SplatParams, data_digest: str) -> dict[str, str]:
    """Return what the result depends on, as text."""
    values = params.model_dump(mode="json", exclude=set(FREE_TO_CHANGE))
    return {"data": data_digest, **{key: json.dumps(value) for key, value in values.items()}}


def read_checkpoint(path: Path, now: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a fit saved, or None where nothing is.

    Args:
        path: of the file.
        now: the fingerprint of the fit that wants to go on.

    Raises:
        ConfigError: the checkpoint belongs to other parameters or other data.
        StorageError: it is damaged.
    """
    if not path.is_file():
        return None
    saved = read_tensors(path)
    then = saved["fingerprint"]
    changed = [
        f"{key} {then.get(key, 'none')} -> {now.get(key, 'none')}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]
    if changed:
        raise ConfigError(f"the checkpoint {path} belongs to another training ({'; '.join(changed)}): start a new run")
    return saved


def read_tensors(path: Path) -> dict[str, Any]:
    """Return what `save_tensors` wrote, on the CPU.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises half a dozen kinds for a file that is damaged
        # Of torch's pages of advice, the first sentence; the rest is about files from strangers.
        reason = str(exc).split("\n")[0].split(". ")[0][:200]
        raise StorageError(f"{path} cannot be read ({type(exc).__name__}: {reason}): remove it to start anew") from exc
    return saved


def save_tensors(path: Path, value: Any) -> None:
    """Write what torch.save writes, atomically."""
    with replacing(path) as file:
        torch.save(value, file)


def sweep(folder: Path) -> None:
    """Remove the files that a killed attempt left half written."""
    for path in folder.glob(".*.*.*"):
        if path.name.startswith((".splat.ckpt.", ".gaussians.pt.", ".metrics.csv.", ".finished.json.")):
            path.unlink(missing_ok=True)
