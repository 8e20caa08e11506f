"""The subsets of a data set as a training reads them: batches, and a digest of their content."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.base.progress import Progress
from tasks.classification.data.cache import ResizeCache
from tasks.classification.data.digests import known_digests
from tasks.classification.data.keeping import choose
from tasks.classification.data.samples import Samples
from tasks.classification.data.subset_images import SubsetImages
from tasks.images.files import in_threads
from tasks.training.batches import Batches


@dataclass(frozen=True, slots=True)
class LoadedSubset:
    """One part of the dataset: `samples.labels[i]` is the class of image `i`."""

    samples: Samples
    images: SubsetImages

    @property
    def digests(self) -> list[str]:
        """Return the digest of each file; of those that nobody has read yet after a look at them."""
        return self.images.digests()

    def batches(self, batch_size: int, **options: Any) -> Batches:
        """Return the part as batches; the options are those of `Batches`."""
        return Batches(self.images.read, self.samples.labels, batch_size, **options)


def load_subsets(
    samples: Mapping[str, Samples], cache: ResizeCache, n_epochs: int, n_processes: int = 1
) -> tuple[dict[str, LoadedSubset], str]:
    """Return parts of a dataset by name, and a sentence on where their images are kept once they are decoded.

    Some files are read to choose that, the others when they are asked for.

    Args:
        samples: name -> images, of one dataset.
        cache: where shrunk images lie on disk; gives their size.
        n_epochs: how often the images are asked for.
        n_processes: each of which keeps its own where they are kept in memory.

    Raises:
        ImageError: an image cannot be used.
        StorageError: the cache cannot be written.
    """
    known = {name: known_digests(found.root, found.paths) for name, found in samples.items()}
    largest = max(samples, key=lambda name: len(samples[name].paths))
    n_images = sum(len(found.paths) for found in samples.values())
    choice = choose(
        *(samples[largest].paths, known[largest], cache), n_images=n_images, n_epochs=n_epochs, n_processes=n_processes
    )
    parts = {
        name: LoadedSubset(found, SubsetImages(found.paths, known[name], cache, choice.keep))
        for name, found in samples.items()
    }
    return parts, choice.why


def reading(parts: Mapping[str, LoadedSubset], n_workers: int) -> Iterator[Progress]:
    """Read the files whose content is not known, so that the digests of all are; yield per file."""
    for name, part in parts.items():
        unknown = part.images.unknown()
        for number, _ in enumerate(in_threads(part.images.look_at, unknown, n_workers), 1):
            yield Progress(f"read {name}", number, len(unknown))


def digest_of(parts: Mapping[str, LoadedSubset]) -> str:
    """Return one digest over the images and labels of some parts, whatever their folder is called."""
    total = hashlib.blake2b(digest_size=16)
    for name, part in parts.items():
        for digest, label in zip(part.digests, part.samples.labels, strict=True):
            total.update(f"{name} {digest} {label}\n".encode())
    return total.hexdigest()
