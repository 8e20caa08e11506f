"""Names the part that a crop shows, by an index in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.progress import finish
from tasks.images.decoding import made_square, resize_rgb
from tasks.recognition.index.embedding import Floats, embedding
from tasks.recognition.index.index_folder import WEIGHTS, StoredIndex, load_embedder, read_index_folder
from tasks.recognition.index.lookup import Lookup, Nearest
from tasks.recognition.index.networks import Embedder

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Named:
    """What an index says of one crop."""

    part: str | None  # None: unknown
    score: float  # how alike the nearest view of the likeliest part is; the threshold of the index is held against it
    nearest: list[tuple[str, str, float]]  # (path of the view, its part, cosine), the most similar first
    rotation: tuple[float, float, float, float] | None  # of its nearest view, w, x, y, z: part frame -> camera frame


class PartIndex:
    """An index, ready to name parts.

    Args:
        stored: views, vectors and threshold.
        embedder: of the index.
        device: to compute on.
    """

    def __init__(self, stored: StoredIndex, embedder: Embedder, device: torch.device) -> None:
        self.stored, self.device = stored, device
        self._embedder = embedder.to(device)
        self._lookup = Lookup(stored.search, stored.labels, stored.levels)

    @property
    def parts(self) -> list[str]:
        """Return the names of the parts it knows."""
        return list(self.stored.config["parts"])

    def name(self, crops: Sequence[Rgb]) -> list[Named]:
        """Return what each crop shows.

        Args:
            crops: (H, W, 3) RGB of any size, each cut about as a detector's box around a part.
        """
        config = self.stored.config
        found = self._lookup.answers(
            self.vectors(crops), threshold=float(config["threshold"]), n_nearest=config["n_nearest"]
        )
        return [self._named(each) for each in found]

    def vectors(self, crops: Sequence[Rgb]) -> Floats:
        """Return the vectors (N, D) of crops."""
        size = self.stored.config["image_size"]

        def read(place: int) -> Rgb:
            return resize_rgb(made_square(crops[place]), size)

        return finish(embedding(self._embedder, read, len(crops), self.device))

    def _named(self, found: Nearest) -> Named:
        stored = self.stored
        nearest = [
            (stored.paths[row], stored.names[stored.labels[row]], cosine)
            for row, cosine in zip(found.rows, found.similarities, strict=True)
        ]
        part = None if found.part is None else stored.names[found.part]
        if found.row is None:
            return Named(part, found.score, nearest, None)
        w, x, y, z = stored.rotations[found.row].tolist()
        return Named(part, found.score, nearest, (w, x, y, z))


def load_index(folder: Path, device: torch.device) -> PartIndex:
    """Return the index in a folder.

    Raises:
        WeightsError: it holds none, or its files do not fit together.
    """
    stored = read_index_folder(folder)
    return PartIndex(stored, load_embedder(folder / WEIGHTS, stored.config), device)
