"""Writes checkpoints whole, and reads those of a training with the same result; for all trainings."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import replacing
from tasks.store.places import recorded
from tasks.store.sending import written


class Checkpoint:
    """The checkpoint of one training, with what its last writing took.

    Args:
        path: of the file.
        clock: seconds, on any clock that moves steadily.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path, self._clock = path, clock
        self._saved_at, self.cost_s = clock(), 0.0

    @property
    def age_s(self) -> float:
        """Return the seconds since the last writing, or since the training was opened."""
        return self._clock() - self._saved_at

    def save(
        self, state: Mapping[str, Any], fingerprint: Mapping[str, str], *, before: Mapping[Path, Any] | None = None
    ) -> None:
        """Write the state of a training.

        Args:
            state: what it goes on from.
            fingerprint: what its result depends on.
            before: tensors by file, written first because the state names these files.
        """
        begun = self._clock()
        for path, tensors in (before or {}).items():
            save_tensors(path, tensors)
        save_tensors(self.path, {**state, "fingerprint": dict(fingerprint)})
        self._saved_at = self._clock()
        self.cost_s = self._saved_at - begun
        written(self.path.parent)

    def load(self, now: Mapping[str, str]) -> dict[str, Any]:
        """Return what a training saved.

        Args:
            now: the fingerprint of the training that wants to go on.

        Raises:
            ConfigError: the checkpoint belongs to other parameters or other data.
            StorageError: it is damaged.
        """
        saved = load_tensors(self.path)
        then = saved["fingerprint"]
        changed = [
            f"{key} {then.get(key, 'none')} -> {now.get(key, 'none')}"
            for key in sorted(now.keys() | then.keys())
            if now.get(key) != then.get(key)
        ]
        if changed:
            raise ConfigError(
                f"the checkpoint {self.path} belongs to another training ({'; '.join(changed)}): start a new run"
            )
        return saved


def fingerprint_of(params: BaseModel, free_to_change: Collection[str], data_digest: str) -> dict[str, str]:
    """Return what the result of a training depends on, as text.

    Args:
        params: of the training.
        free_to_change: names of parameters that the result does not depend on.
        data_digest: of all that is trained on.
    """
    values = recorded(params.model_dump(mode="json", exclude=set(free_to_change)))
    return {"data": data_digest, **{key: json.dumps(value) for key, value in values.items()}}


def save_tensors(path: Path, value: Any) -> None:
    """Write what torch.save writes, atomically."""
    with replacing(path) as file:
        torch.save(value, file)


def load_tensors(path: Path) -> dict[str, Any]:
    """Return what `save_tensors` wrote, on the CPU.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises half a dozen kinds for a file that is damaged
        # The first sentence of torch's message; the rest is advice about untrusted files.
        reason = str(exc).split("\n")[0].split(". ")[0][:200]
        raise StorageError(f"{path} cannot be read ({type(exc).__name__}: {reason}): remove it to start anew") from exc
    return saved
