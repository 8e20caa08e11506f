"""Where the store says which content a name stands for, and of which files a content is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.base.errors import StorageError
from tasks.store import manifest
from tasks.store.manifest import Files
from tasks.store.objects import Objects

_NAMES = "data-names"
_POINTER = re.compile(r"(?P<at>\d{13})\.(?P<digest>[0-9a-f]{64})\.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Pointer:
    """From when on a name stands for which content.

    Args:
        name: of the data set.
        at_ms: milliseconds since 1970.
        digest: of the content.
    """

    name: str
    at_ms: int
    digest: str

    @property
    def place(self) -> str:
        """Return where it is in the store."""
        return f"{_NAMES}/{self.name}/{self.at_ms:013}.{self.digest}.json"


def is_name(text: str) -> bool:
    """Return whether a data set can be called so."""
    return _NAME.fullmatch(text) is not None


def names(objects: Objects) -> list[str]:
    """Return the names of all data sets that the store has, or has had.

    Raises:
        TransferError: MLflow does not answer, or refuses.
    """
    return sorted(filter(is_name, objects.sizes(_NAMES)))


def pointers(objects: Objects, name: str) -> list[Pointer]:
    """Return what a name has stood for, the latest first.

    Raises:
        TransferError: MLflow does not answer, or refuses.
    """
    found = (_POINTER.fullmatch(text) for text in objects.sizes(f"{_NAMES}/{name}"))
    made = [Pointer(name, int(each["at"]), each["digest"]) for each in found if each]
    return sorted(made, key=lambda pointer: (pointer.at_ms, pointer.digest), reverse=True)


def all_pointers(objects: Objects) -> Iterator[Pointer]:
    """Yield those of all names.

    Raises:
        TransferError: MLflow does not answer, or refuses.
    """
    for name in names(objects):
        yield from pointers(objects, name)


MANIFESTS = "datasets"


def manifest_name(digest: str) -> str:
    """Return where the store says which files a data set has."""
    return f"{MANIFESTS}/{digest[:3]}/{digest}.json.gz"


def read_files(objects: Objects, digest: str) -> Files | None:
    """Return the files of a data set, None where the store has no such one.

    Raises:
        TransferError: MLflow does not answer, or refuses.
        StorageError: the manifest is damaged.
    """
    where = manifest_name(digest)
    if (data := objects.get(where)) is None:
        return None
    files = manifest.decode(data, where)
    if manifest.digest_of(files) != digest:
        raise StorageError(f"{where} in MLflow's artifact store is damaged: put the data set there again")
    return files


def files_of(objects: Objects, digest: str) -> Files:
    """Return the files of a data set that a name stands for.

    Raises:
        TransferError: MLflow does not answer, or refuses.
        StorageError: the manifest is missing, or damaged.
    """
    if (files := read_files(objects, digest)) is None:
        where = manifest_name(digest)
        raise StorageError(f"found no {where} in MLflow's artifact store, which a name there needs: put it there again")
    return files
