"""Data sets that somebody has put into the store under a name, for all hosts."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import FOREVER, file_lock, lock, try_lock
from tasks.base.workspace import home, storage_errors
from tasks.store import manifest
from tasks.store.folder import files_below
from tasks.store.manifest import Files
from tasks.store.objects import Objects, need
from tasks.store.packing import Progress, Sender, bring, counted, is_here, known_places
from tasks.store.places import DATA, DATA_FOLDER

_NAMES = "data-names"
_POINTER = re.compile(r"(?P<at>\d{13})\.(?P<digest>[0-9a-f]{64})\.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_DIGEST = re.compile("[0-9a-f]{64}")
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
        if not _NAME.fullmatch(name):
            raise ConfigError(f"found the name {name!r}, need letters, digits, '.', '_' and '-', at most 100")
        if not folder.is_dir():
            raise ConfigError(f"found no folder {folder}, need the one that holds the data")
        files = files_below(folder)
        if not files:
            raise ConfigError(f"found no file below {folder}, need at least one")
        before = self._latest(name)
        known = known_places(self._files(before.digest).values()) if before else {}
        sent = Sender(self._objects, known, counted(files, progress)).send(folder, files)
        digest = manifest.digest_of(sent)
        if self._objects.get(_manifest(digest)) is None:
            self._objects.put(_manifest(digest), manifest.encode(sent))
        found = DataSet(name, digest, time.time(), owner, len(sent), sum(file.size for file in sent.values()))
        about = {key: getattr(found, key) for key in sorted(_COUNTING)}
        self._objects.put(f"{_NAMES}/{name}/{found.put_at * 1000:013.0f}.{digest}.json", json.dumps(about).encode())
        return found

    def all(self) -> list[DataSet]:
        """Return the latest one of each name, by name."""
        names = (name for name in sorted(self._objects.sizes(_NAMES)) if _NAME.fullmatch(name))
        return [found for name in names if (found := self._latest(name))]

    def find(self, address: str) -> DataSet:
        """Return the data set that a parameter names.

        Args:
            address: data:NAME, or data:NAME@DIGEST for one that the name stood for at some time.

        Raises:
            ConfigError: there is none.
        """
        asked = DATA.fullmatch(address)
        if asked is None:
            raise ConfigError(f"found {address!r}, need data:NAME or data:NAME@DIGEST")
        versions = list(self._versions(asked["name"]))
        wanted = [digest for _, digest in versions if digest.startswith(asked["digest"] or "")]
        if not versions:
            known = ", ".join(found.name for found in self.all()) or "none"
            raise ConfigError(f"found no data set {asked['name']!r}, have: {known}; `yard data put` adds one")
        if not wanted:
            latest = versions[0][1][:12]
            raise ConfigError(f"found no {address}; the name stands for data:{asked['name']}@{latest} now")
        return self._read(asked["name"], *next(version for version in versions if version[1] == wanted[0]))

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
        files = self._files(digest)
        with storage_errors(part):
            part.mkdir(parents=True, exist_ok=True)
        todo = {path: file for path, file in files.items() if not is_here(part / path, file)}
        total = sum(file.size for file in todo.values())
        if (free := shutil.disk_usage(part).free) < total:
            raise StorageError(f"found {free / 1e9:.1f} GB free for {part}, need {total / 1e9:.1f} GB: free room there")
        bring(self._objects, part, todo, counted(todo, progress))

    def _files(self, digest: str) -> Files:
        where = _manifest(digest)
        files = manifest.decode(need(self._objects.get(where), where), where)
        if manifest.digest_of(files) != digest:
            raise StorageError(f"{where} in MLflow's artifact store is damaged: put the data set there again")
        return files

    def _latest(self, name: str) -> DataSet | None:
        version = next(self._versions(name), None)
        return self._read(name, *version) if version else None

    def _versions(self, name: str) -> Iterator[tuple[float, str]]:
        """Yield when a name began to stand for a digest, the latest first."""
        pointers = (_POINTER.fullmatch(text) for text in self._objects.sizes(f"{_NAMES}/{name}"))
        yield from sorted(((int(p["at"]) / 1000, p["digest"]) for p in pointers if p), reverse=True)

    def _read(self, name: str, put_at: float, digest: str) -> DataSet:
        where = f"{_NAMES}/{name}/{put_at * 1000:013.0f}.{digest}.json"
        try:
            about = json.loads(need(self._objects.get(where), where))
            return DataSet(name, digest, put_at, **{key: about[key] for key in _COUNTING})
        except (ValueError, TypeError, KeyError) as exc:
            raise StorageError(f"cannot read {where} in MLflow's artifact store: {exc}") from exc


def _manifest(digest: str) -> str:
    return f"datasets/{digest[:3]}/{digest}.json.gz"


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
