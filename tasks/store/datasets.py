"""Data sets that somebody has put into the store under a name, for all hosts."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.base.errors import ConfigError, StorageError, TransferError
from tasks.base.file_locks import FOREVER, file_lock, lock, try_lock
from tasks.base.workspace import home, storage_errors
from tasks.store import manifest
from tasks.store.folder import files_below
from tasks.store.manifest import Files, Span
from tasks.store.objects import Objects, need
from tasks.store.packing import Progress, Sender, Sizes, bring, counted, is_here, known_places, objects_of
from tasks.store.places import DATA, DATA_FOLDER
from tasks.store.pointers import Pointer, files_of, is_name, manifest_name, names, pointers, read_files
from tasks.store.removal import Finished, Removal, Removed, finish_others

_DIGEST = re.compile("[0-9a-f]{64}")
_TRIES = 4  # of a put between removals
_COUNTING = frozenset({"owner", "n_files", "n_bytes"})


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set under its name.

    Args:
        name: of it.
        digest: SHA-256 of its paths and content, in hexadecimal.
        put_at: Unix seconds.
        owner: who put it there.
        n_files, n_bytes: of it.
    """

    name: str
    digest: str
    put_at: float
    owner: str
    n_files: int
    n_bytes: int

    @property
    def address(self) -> str:
        """Return how a parameter names this very content."""
        return f"data:{self.name}@{self.digest[:12]}"


class DataSets:
    """The data sets of a store.

    Args:
        objects: the store.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put(self, folder: Path, name: str, owner: str, progress: Progress = lambda done, total: None) -> DataSet:
        """Send a folder, and let a name stand for it from now on; what the store has already is not sent.

        Args:
            folder: of the data; links below it are left out.
            name: letters, digits, '.', '_' and '-'.
            owner: who puts it there.
            progress: is told of the bytes.

        Raises:
            ConfigError: the name cannot be one, or the folder is none or holds nothing.
            TransferError: MLflow does not answer, or refuses.
            StorageError: a file cannot be read.
        """
        if not is_name(name):
            raise ConfigError(f"found the name {name!r}, need letters, digits, '.', '_' and '-', at most 100")
        if not folder.is_dir():
            raise ConfigError(f"found no folder {folder}, need the one that holds the data")
        files = files_below(folder)
        if not files:
            raise ConfigError(f"found no file below {folder}, need at least one")
        known = self._known(name)
        for _ in range(_TRIES):
            sent = self._send(folder, files, known, progress)
            made = self._call(name, owner, sent)
            finish_others(self._objects)
            if not (gone := self._gone(sent, made.digest)):
                return made
            known = {}  # what a removal has taken away meanwhile is sent again
        raise TransferError(
            f"found {len(gone)} of {len(objects_of(sent.values()))} objects of {made.address} missing in MLflow's "
            "artifact store, which had taken them"
        )

    def _gone(self, sent: Files, digest: str) -> set[str]:
        """Return what of a data set the store does not have any more."""
        sizes, manifest_at = Sizes(self._objects), manifest_name(digest)
        gone = {name for name in objects_of(sent.values()) if sizes.of(name) is None}
        return gone if self._objects.get(manifest_at) is not None else {*gone, manifest_at}

    def _known(self, name: str) -> dict[str, tuple[Span, ...]]:
        """Return where the content lies that a name stands for now, by digest; none that is missing."""
        latest = next(iter(pointers(self._objects, name)), None)
        if latest is None or (files := read_files(self._objects, latest.digest)) is None:
            return {}
        sizes, known = Sizes(self._objects), known_places(files.values())
        return {digest: spans for digest, spans in known.items() if all(sizes.of(span.name) for span in spans)}

    def _send(self, folder: Path, files: Files, known: Mapping[str, tuple[Span, ...]], progress: Progress) -> Files:
        """Send files and their manifest, and return them as they lie in the store."""
        sent = Sender(self._objects, known, counted(files, progress)).send(folder, files)
        digest = manifest.digest_of(sent)
        if self._objects.get(manifest_name(digest)) is None:
            self._objects.put(manifest_name(digest), manifest.encode(sent))
        return sent

    def _call(self, name: str, owner: str, sent: Files) -> DataSet:
        """Let a name stand for files from now on."""
        put_at, size = round(time.time(), 3), sum(file.size for file in sent.values())
        found = DataSet(name, manifest.digest_of(sent), put_at, owner, len(sent), size)
        about = {key: getattr(found, key) for key in sorted(_COUNTING)}
        self._objects.put(Pointer(name, round(put_at * 1000), found.digest).place, json.dumps(about).encode())
        return found

    def all(self, *, versions: bool = False) -> list[DataSet]:
        """Return the latest one of each name, by name; and with `versions` also what it stood for before."""
        found = (pointers(self._objects, name) for name in names(self._objects))
        return [self._read(pointer) for of_name in found for pointer in (of_name if versions else of_name[:1])]

    def pointers(self, address: str) -> list[Pointer]:
        """Return what is meant by an address, the latest first.

        Args:
            address: data:NAME, or data:NAME@DIGEST for what the name stood for at some time.

        Raises:
            ConfigError: there is none.
        """
        asked = DATA.fullmatch(address)
        if asked is None:
            raise ConfigError(f"found {address!r}, need data:NAME or data:NAME@DIGEST")
        versions = pointers(self._objects, asked["name"])
        if not versions:
            known = ", ".join(name for name in names(self._objects) if pointers(self._objects, name)) or "none"
            raise ConfigError(f"found no data set {asked['name']!r}, have: {known}; `yard data put` adds one")
        wanted = [pointer for pointer in versions if pointer.digest.startswith(asked["digest"] or "")]
        if not wanted:
            latest = versions[0].digest[:12]
            raise ConfigError(f"found no {address}; the name stands for data:{asked['name']}@{latest} now")
        return wanted

    def versions(self, name: str) -> list[Pointer]:
        """Return all that a name stands for, and stood for, the latest first."""
        return pointers(self._objects, name)

    def owner(self, pointer: Pointer) -> str:
        """Return who put a data set there; empty where that is damaged."""
        try:
            return self._read(pointer).owner
        except StorageError:
            return ""

    def finish_removals(self) -> list[Finished]:
        """Wait for removals that are under way, and finish those that were cut off."""
        return finish_others(self._objects)

    def remove(self, gone: list[Pointer], is_needed: Callable[[], object]) -> Removed:
        """Take names away, and remove the objects that no other data set has; see `Removal.run`."""
        return Removal(self._objects, gone).run(is_needed)

    def clean(self) -> dict[str, int]:
        """Remove what no data set needs, and return the bytes of each object; see `Removal.clean`."""
        finish_others(self._objects)
        return Removal(self._objects, []).clean()

    def find(self, address: str) -> DataSet:
        """Return the data set that a parameter names.

        Args:
            address: data:NAME, or data:NAME@DIGEST for one that the name stood for at some time.

        Raises:
            ConfigError: there is none.
        """
        return self._read(self.pointers(address)[0])

    def bring(self, digest: str, progress: Progress = lambda done, total: None) -> Path:
        """Return the folder with a data set on this host, brought here unless it is here.

        Raises:
            TransferError: MLflow does not answer, or refuses.
            StorageError: something is missing or damaged in the store, or the disk refuses.
        """
        target = data_folder() / digest
        with file_lock(target.with_suffix(".lock"), f"data set {digest[:12]}", wait=True):
            if not target.is_dir():
                self._bring(digest, target.with_suffix(".part"), progress)
                with storage_errors(target):
                    target.with_suffix(".part").rename(target)
            os.utime(target)  # what was not used for long is removed first
        return target

    def copy(self, digest: str, target: Path, progress: Progress = lambda done, total: None) -> None:
        """Write a data set into a new folder of a person's own.

        Raises:
            ConfigError: there is something already.
            TransferError, StorageError: as `bring`.
        """
        if target.exists():
            raise ConfigError(f"found {target}, need a place where nothing is yet")
        part = target.with_name(target.name + ".part")
        self._bring(digest, part, progress)
        with storage_errors(target):
            part.rename(target)

    def _bring(self, digest: str, part: Path, progress: Progress) -> None:
        files = files_of(self._objects, digest)
        with storage_errors(part):
            part.mkdir(parents=True, exist_ok=True)
        todo = {path: file for path, file in files.items() if not is_here(part / path, file)}
        total = sum(file.size for file in todo.values())
        if (free := shutil.disk_usage(part).free) < total:
            raise StorageError(f"found {free / 1e9:.1f} GB free for {part}, need {total / 1e9:.1f} GB: free room there")
        bring(self._objects, part, todo, counted(todo, progress))

    def _read(self, pointer: Pointer) -> DataSet:
        try:
            about = json.loads(need(self._objects.get(pointer.place), pointer.place))
            known = {key: about[key] for key in _COUNTING}
            return DataSet(pointer.name, pointer.digest, pointer.at_ms / 1000, **known)
        except (ValueError, TypeError, KeyError) as exc:
            raise StorageError(f"cannot read {pointer.place} in MLflow's artifact store: {exc}") from exc


def data_folder() -> Path:
    """Return (and make) the folder of the data sets on this host."""
    path = home() / DATA_FOLDER
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def hold(folder: Path) -> None:
    """Keep a data set on this host for as long as this process lives."""
    with storage_errors(folder):
        fd = os.open(folder.with_suffix(".use"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    lock(fd, shared=True, wait_s=FOREVER)  # never closed


def kept_data_sets() -> list[Path]:
    """Return the folders of the data sets that are whole on this host."""
    folder = home() / DATA_FOLDER
    return sorted(path for path in folder.iterdir() if _DIGEST.fullmatch(path.name)) if folder.is_dir() else []


def retire(folder: Path) -> Path | None:
    """Take a data set out of use, and return what is left to remove; None: a run works with it.

    What is left of one that was not removed to the end is taken up by whoever brings it again.
    """
    held = try_lock(folder.with_suffix(".use"))
    if held is None:
        return None
    try:
        part = folder.with_suffix(".part")
        with storage_errors(folder):
            folder.rename(part)
        return part
    finally:
        os.close(held)
