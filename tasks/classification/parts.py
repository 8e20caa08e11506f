"""The parts of a dataset as a training reads them: shrunk, in batches, and with a digest of what they hold."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.classification.cache import read_entry
from tasks.classification.data import Batches, Samples


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """One part of the dataset, shrunk: `entries[i]`, `digests[i]` and `samples.labels[i]` belong together."""

    samples: Samples
    entries: list[Path]
    digests: list[str]

    def batches(self, size: int, batch_size: int, **options: Any) -> Batches:
        """Return the part as batches of (S, S, 3) images; the options are those of `Batches`."""

        def read(index: int) -> np.ndarray:
            return read_entry(self.entries[index], size)

        return Batches(read, self.samples.labels, batch_size, **options)


def digest_of(parts: Mapping[str, LoadedPart]) -> str:
    """Return one digest over the images and labels of some parts, whatever their folder is called."""
    total = hashlib.blake2b(digest_size=16)
    for name, part in parts.items():
        for digest, label in zip(part.digests, part.samples.labels, strict=True):
            total.update(f"{name} {digest} {label}\n".encode())
    return total.hexdigest()
