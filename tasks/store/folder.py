"""A folder that hosts write in turn: each sends what it changed, and brings what the others did."""

import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from tasks.base.errors import StorageError, TakenOverError, TransferError
from tasks.base.file_locks import file_lock
from tasks.base.workspace import storage_errors, write_atomic
from tasks.store import manifest
from tasks.store.manifest import File, Files, Name
from tasks.store.objects import Objects, need
from tasks.store.packing import (
    Progress,
    Sender,
    bring,
    counted,
    digest_file,
    is_here,
    known_places,
    object_name,
    objects_of,
)

STATE = ".store"
"""Folder of what this host knows of the shared one."""

_OWN = frozenset({"lock", "stop", "tmp", "files", STATE})
"""What belongs to this host alone, at the top of a folder of a run."""

_PARTS = (".tmp", ".part")


@dataclass(frozen=True, slots=True)
class _Seen:
    """How a file looked when its content was the one that is known."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_Seen":
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(slots=True)
class _State:
    """What this host knows: all files with the latest word on each, how they look here, and what it has read."""

    files: Files = field(default_factory=dict)
    seen: dict[str, _Seen] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    @property
    def clock(self) -> int:
        read = [name.clock for name in map(Name.parse, self.read) if name]
        return max([*(file.clock for file in self.files.values()), *read], default=0)


class SharedFolder:
    """A folder here, and what the store has of it.

    Args:
        folder: here; it need not be there yet.
        name: of the folder in the store: runs/ID.
        objects: the store.
    """

    def __init__(self, folder: Path, name: str, objects: Objects) -> None:
        self.folder, self._name, self._objects = folder, name, objects.below(name)

    def bring(self, progress: Progress = lambda done, total: None) -> int:
        """Write what other hosts have sent since, remove what they removed, and return how many files changed.

        What was changed here and is not sent yet stays, unless another host changed the same file later.

        Raises:
            TransferError: MLflow does not answer, or refuses.
            StorageError: something is missing or damaged in the store, or the disk refuses.
        """
        with self._held():
            state = self._read_state()
            names = self._manifests()
            fresh = {text: self._decoded(text) for text in names if text not in state.read}
            if not fresh:
                return 0
            latest = manifest.merged([state.files, *fresh.values()])
            changed = {path: file for path, file in latest.items() if self._is_newer(state, path, file)}
            self._apply(changed, progress)
            self._write_state(_State(latest, self._looks(latest, state.seen, changed), {*names}))
            return len(changed)

    def send(
        self,
        writer: str,
        source: Path | None = None,
        progress: Progress = lambda done, total: None,
        *,
        claim: bool = False,
    ) -> int:
        """Send what has changed here, and return how many files that are.

        Args:
            writer: the id of the run that changed it.
            source: a part of the folder as it was at one moment, at the same paths below `source`; the rest of the
                folder is left out. None: the folder as it is.
            progress: is told of the bytes.
            claim: the writer's word is given also where nothing has changed: a process of it elsewhere, which is cut
                off from here, sends nothing any more.

        Raises:
            TakenOverError: the writer goes on elsewhere.
            TransferError: MLflow does not answer, or refuses.
            StorageError: a file cannot be read.
        """
        with self._held():
            state = self._read_state()
            root = source or self.folder
            found = dict(_walk(root))
            changed = {path: look for path, look in found.items() if self._is_changed(state, path, look)}
            clock = state.clock + 1
            whole = source is None
            gone = [path for path, file in state.files.items() if whole and file.digest and path not in found]
            if not (changed or gone or claim):
                return 0
            names = self._manifests()
            self._refuse_if_taken(state, writer, names)
            n_names = 1 if whole else 2  # a picture of the folder has one of each
            files = {path: _file_of(root / path, look, clock, writer, n_names) for path, look in changed.items()}
            known = known_places(state.files.values())
            sent = Sender(self._objects, known, counted(files, progress)).send(root, files)
            before = objects_of(file for path, file in state.files.items() if path in sent or path in gone)
            state.files |= sent | {path: File(clock, writer) for path in gone}
            state.seen |= {path: _Seen.of(look) for path, look in changed.items()}
            self._publish(state, writer, clock, names)
            self._drop(before - objects_of(state.files.values()))
            self._write_state(state)
            return len(changed) + len(gone)

    def check(self, writer: str) -> None:
        """Pass where a run still works here as far as the store knows.

        Raises:
            TakenOverError: it goes on elsewhere.
            TransferError: MLflow does not answer, or refuses.
        """
        with self._held():
            self._refuse_if_taken(self._read_state(), writer, self._manifests())

    def goes_on_elsewhere(self, part: str) -> bool:
        """Return whether who wrote a part of the folder, as it lies here, has written on another host since.

        Args:
            part: a folder in that of the run.

        Raises:
            TransferError: MLflow does not answer, or refuses.
        """
        with self._held():
            state = self._read_state()
            writers = {file.writer for path, file in state.files.items() if path.startswith(f"{part}/")}
            return any(name.writer in writers and text not in state.read for text, name in self._manifests().items())

    def known(self) -> Files:
        """Return the latest word of all hosts on each file, without a file being moved.

        Raises:
            TransferError: MLflow does not answer, or refuses.
            StorageError: a manifest is damaged.
        """
        latest = manifest.merged(self._decoded(text) for text in self._manifests())
        return {path: file for path, file in latest.items() if file.digest}

    def remove(self) -> None:
        """Remove all that the store has of the folder.

        Raises:
            TransferError: MLflow does not answer, or refuses.
        """
        self._objects.remove("")

    def _refuse_if_taken(self, state: _State, writer: str, names: Mapping[str, Name]) -> None:
        if any(name.writer == writer and text not in state.read for text, name in names.items()):
            raise TakenOverError(f"run {writer} goes on with {self._name} on another host; nothing is sent from here")

    def _publish(self, state: _State, writer: str, clock: int, before: Mapping[str, Name]) -> None:
        """Give the store the writer's own word on all that it changed; its earlier word goes."""
        own = {path: file for path, file in state.files.items() if file.writer == writer}
        data = manifest.encode(own)
        name = Name(writer, clock, manifest.digest_bytes(data))
        self._objects.put(str(name), data)
        state.read.add(str(name))
        with suppress(TransferError):  # an account may add, but not delete: whoever reads takes the latest
            for text, other in before.items():
                if other.writer == writer:
                    self._objects.remove(text)

    def _drop(self, names: Iterable[str]) -> None:
        """Remove objects that nobody names any more, such as those of the checkpoint before."""
        with suppress(TransferError):  # as above
            for name in names:
                self._objects.remove(object_name(name))

    def _manifests(self) -> dict[str, Name]:
        """Return the latest manifest of each writer, by its name in the store."""
        parsed = {text: Name.parse(text) for text in self._objects.sizes("")}
        latest: dict[str, tuple[str, Name]] = {}
        for text, name in parsed.items():
            if name and (name.writer not in latest or latest[name.writer][1].clock < name.clock):
                latest[name.writer] = text, name
        return dict(latest.values())

    def _decoded(self, text: str) -> Files:
        where = f"{self._name}/{text}"
        data, name = need(self._objects.get(text), where), Name.parse(text)
        if name is None or manifest.digest_bytes(data) != name.digest:
            raise StorageError(f"the manifest {where} in MLflow's artifact store is damaged, or still being written")
        return manifest.decode(data, where)

    def _is_newer(self, state: _State, path: str, file: File) -> bool:
        known = state.files.get(path)
        if known is None or known.order < file.order:
            return known is None or known.digest != file.digest or not (self.folder / path).is_file()
        return False

    def _is_changed(self, state: _State, path: str, look: os.stat_result) -> bool:
        known = state.files.get(path)
        return known is None or not known.digest or state.seen.get(path) != _Seen.of(look)

    def _apply(self, changed: Mapping[str, File], progress: Progress) -> None:
        wanted = {path: file for path, file in changed.items() if file.digest}
        for path in changed.keys() - wanted.keys():
            self._safe(path).unlink(missing_ok=True)
        links = _links(wanted)
        # What an attempt that was cut off has brought is not asked for again.
        todo = {p: file for p, file in wanted.items() if p not in links and not is_here(self.folder / p, file)}
        for path in todo:
            self._safe(path)
        bring(self._objects, self.folder, todo, counted(todo, progress))
        for path, first in links.items():
            _link(self.folder / first, self._safe(path))

    def _safe(self, path: str) -> Path:
        """Return where a file belongs, its folder made.

        Raises:
            StorageError: a link leads out of the folder.
        """
        target = self.folder / path
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(self.folder.resolve()):
            raise StorageError(f"found a link on the way to {target}, need a folder within {self.folder}")
        return target

    def _looks(self, latest: Files, seen: dict[str, _Seen], changed: Mapping[str, File]) -> dict[str, _Seen]:
        """Return how the files look that are as the store has them."""
        looks = {path: look for path, look in seen.items() if path not in changed and path in latest}
        for path, file in changed.items():
            if file.digest:
                looks[path] = _Seen.of((self.folder / path).stat())
        return looks

    @contextmanager
    def _held(self) -> Iterator[None]:
        state = self.folder / STATE
        with storage_errors(state):
            state.mkdir(parents=True, exist_ok=True)
        with file_lock(state / "lock", f"another process sends or brings {self.folder}", wait=True):
            yield

    def _read_state(self) -> _State:
        path = self.folder / STATE / "state.json.gz"
        try:
            found = json.loads(gzip.decompress(path.read_bytes()).decode("utf-8", "surrogateescape"))
            files = manifest.decode(bytes.fromhex(found["files"]), str(path))
            return _State(files, {name: _Seen(*row) for name, row in found["seen"].items()}, {*found["read"]})
        except FileNotFoundError:
            return _State()
        except (OSError, EOFError, ValueError, TypeError, LookupError, StorageError):
            return _State()  # of another version, or damaged: all is looked at anew

    def _write_state(self, state: _State) -> None:
        found = {
            "files": manifest.encode(state.files).hex(),
            "seen": {path: astuple(look) for path, look in state.seen.items()},
            "read": sorted(state.read),
        }
        text = json.dumps(found, separators=(",", ":")).encode("utf-8", "surrogateescape")
        write_atomic(self.folder / STATE / "state.json.gz", gzip.compress(text, compresslevel=1))


def _walk(root: Path, below: str = "", *, of_run: bool = True) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files below a folder by path, each with its look; links are left out, and what is a host's own."""
    with storage_errors(root), os.scandir(root / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = f"{below}{entry.name}"
            if entry.is_symlink() or (of_run and _is_own(entry.name, below)):
                continue
            if entry.is_dir():
                yield from _walk(root, f"{path}/", of_run=of_run)
            elif entry.is_file():
                yield path, entry.stat()


def _is_own(name: str, below: str) -> bool:
    return (not below and name in _OWN) or name.endswith(_PARTS)


def files_below(folder: Path) -> Files:
    """Return the files of a folder with the digest of each; links are left out.

    Raises:
        StorageError: a file cannot be read.
    """
    return {path: _file_of(folder / path, look, 0, "", 1) for path, look in _walk(folder, of_run=False)}


def _file_of(path: Path, look: os.stat_result, clock: int, writer: str, n_names: int) -> File:
    digest = digest_file(path, look.st_size)
    return File(clock, writer, digest, look.st_size, bool(look.st_mode & 0o100), look.st_nlink > n_names)


def _links(files: Mapping[str, File]) -> dict[str, str]:
    """Return which files are to be further names of another one: they were so where they come from."""
    first: dict[str, str] = {}
    found = {}
    for path, file in sorted(files.items()):
        if file.linked and file.size:
            one = first.setdefault(file.digest, path)
            if one != path:
                found[path] = one
    return found


def _link(source: Path, target: Path) -> None:
    with storage_errors(target):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copyfile(source, target)


def frozen(folder: Path, part: str, into: Path) -> None:
    """Make `into` a picture of a part of a folder at this moment, by further names of its files.

    Files that are replaced whole stay as they are now; one that grows goes on growing.

    Args:
        folder: the whole one.
        part: path of the part below it.
        into: an empty or missing folder on the same disk; the files have the same paths below it.
    """
    for path, _ in _walk(folder / part if part else folder):
        whole = f"{part}/{path}" if part else path
        target = into / whole
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / whole, target)
