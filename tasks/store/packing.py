"""Puts files into objects of the store and takes them out: small ones share an object, large ones have several."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.base.errors import StorageError
from tasks.base.workspace import replacing, storage_errors
from tasks.store.manifest import File, Span, digest_bytes
from tasks.store.objects import Objects, need

OBJECT_BYTES = 16 * 2**20
"""Of an object at most: what a broken connection costs, and what a thread has in memory."""

_SMALL_BYTES = OBJECT_BYTES // 4
_N_THREADS = 4

_Sent = list[tuple[str, Span, str]]
"""Of each piece in an object: its file, its place, the digest of what was read."""

Moved = Callable[[int], None]
"""Is told how many more bytes have been sent or brought."""

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many have been moved."""


OBJECTS = "objects"


def object_name(digest: str) -> str:
    """Return where an object lies in the store."""
    return f"{OBJECTS}/{digest[:3]}/{digest}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Content of one file that goes into an object."""

    path: str
    start: int
    length: int


class Sizes:
    """Bytes of objects as the store has them, by one listing for each of its folders.

    Args:
        objects: the store.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._folders: dict[str, dict[str, int]] = {}

    def of(self, name: str) -> int | None:
        """Return the bytes of an object, None where there is none."""
        folder = object_name(name).rpartition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = self._objects.sizes(folder)
        return self._folders[folder].get(name)


class Sender:
    """Sends the content of files; what the store has is not sent again.

    Args:
        objects: the store.
        known: where content lies already, by digest.
        moved: is told of the bytes.
    """

    def __init__(self, objects: Objects, known: Mapping[str, tuple[Span, ...]], moved: Moved) -> None:
        self._objects, self._known, self._moved = objects, dict(known), moved
        self._sizes = Sizes(objects)

    def send(self, folder: Path, files: Mapping[str, File]) -> dict[str, File]:
        """Send files, and return each with the place of its bytes, and the digest and size of what was sent.

        A file that grows meanwhile is sent as it was; what is read is what counts.

        Args:
            folder: that the paths are below.
            files: by path; each has its digest and size as it was seen.

        Raises:
            TransferError: MLflow does not answer, or refuses.
            StorageError: a file cannot be read.
        """
        sent = {path: replace(file, spans=self._known[file.digest]) for path, file in files.items() if self._has(file)}
        todo = {path: file for path, file in sorted(files.items()) if path not in sent}
        with _in_threads() as submit:
            packs = [submit(self._send_pack, folder, todo, pack) for pack in _packs(todo)]
        spans: dict[str, list[Span]] = {path: [] for path in todo}
        digests: dict[str, str] = {}
        for pack in packs:
            for path, span, digest in pack.result():
                spans[path].append(span)
                digests[path] = digest
        for path, file in todo.items():
            placed = tuple(span for span in spans[path] if span.length)
            size = sum(span.length for span in placed)
            # Of a large file the whole digest was made before it was sent in pieces.
            digest = file.digest if len(spans[path]) > 1 else digests.get(path, file.digest)
            sent[path] = replace(file, spans=placed, size=size, digest=digest)
        return sent

    def _has(self, file: File) -> bool:
        return file.digest in self._known

    def _send_pack(self, folder: Path, files: Mapping[str, File], pack: Sequence[_Piece]) -> _Sent:
        parts = [(piece, _read(folder / piece.path, piece)) for piece in pack]
        data = b"".join(content for _, content in parts)
        name = digest_bytes(data)
        if data and self._sizes.of(name) != len(data):  # a write that was cut off is shorter
            self._objects.put(object_name(name), data)
        self._moved(len(data))
        found, at = [], 0
        for piece, content in parts:
            found.append((piece.path, Span(name, at, len(content)), digest_bytes(content)))
            at += len(content)
        return found


def _packs(files: Mapping[str, File]) -> Iterator[list[_Piece]]:
    """Yield what goes into one object each: the same files give the same objects."""
    pack: list[_Piece] = []
    n_bytes = 0
    for path, file in files.items():
        if file.size >= _SMALL_BYTES:
            for start in range(0, file.size, OBJECT_BYTES):
                yield [_Piece(path, start, min(OBJECT_BYTES, file.size - start))]
            continue
        if n_bytes + file.size > OBJECT_BYTES:
            yield pack
            pack, n_bytes = [], 0
        pack.append(_Piece(path, 0, file.size))
        n_bytes += file.size
    if pack:
        yield pack


def _read(path: Path, piece: _Piece) -> bytes:
    with storage_errors(path), path.open("rb") as file:
        file.seek(piece.start)
        data = file.read(piece.length)
    if len(data) != piece.length:
        raise StorageError(f"found {path} shorter than a moment ago: it is being written; send the folder again")
    return data


def counted(files: Mapping[str, File], progress: Progress) -> Moved:
    """Return what adds up the bytes of files as they are moved, and tells how many of all that are."""
    total, done = sum(file.size for file in files.values()), 0
    progress(0, total)

    def moved(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress(done, total)

    return moved


def is_here(path: Path, file: File) -> bool:
    """Return whether a file has this content."""
    return path.is_file() and path.stat().st_size == file.size and digest_file(path) == file.digest


def digest_file(path: Path, size: int | None = None) -> str:
    """Return SHA-256 of a file's content in hexadecimal.

    Args:
        path: of the file.
        size: bytes from its beginning, of one that may be growing; None: all.

    Raises:
        StorageError: it cannot be read, or is shorter.
    """
    whole, left = hashlib.sha256(), size
    with storage_errors(path), path.open("rb") as file:
        if left is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        while left and (data := file.read(min(left, 2**20))):
            whole.update(data)
            left -= len(data)
    if left:
        raise StorageError(f"found {path} shorter than a moment ago: it is being written; send the folder again")
    return whole.hexdigest()


def bring(objects: Objects, folder: Path, files: Mapping[str, File], moved: Moved) -> None:
    """Write files whose content lies in the store, each whole or not at all.

    Args:
        objects: the store.
        folder: that the paths are below.
        files: by path; what is there is replaced.
        moved: is told of the bytes.

    Raises:
        TransferError: MLflow does not answer, or refuses.
        StorageError: an object is missing or damaged, or a file cannot be written.
    """
    small: dict[str, list[str]] = {}
    with _in_threads() as submit:
        for path, file in files.items():
            if len(file.spans) == 1 and file.size < _SMALL_BYTES:
                small.setdefault(file.spans[0].name, []).append(path)
            else:
                submit(_bring_large, objects, folder / path, file, moved)
        for name, paths in small.items():
            submit(_bring_pack, objects, folder, name, {path: files[path] for path in paths}, moved)


def _bring_pack(objects: Objects, folder: Path, name: str, files: Mapping[str, File], moved: Moved) -> None:
    data = _object(objects, name)
    for path, file in files.items():
        (span,) = file.spans
        content = data[span.start : span.start + span.length]
        with _checked(folder / path, file) as write:
            write(content)
        moved(len(content))


def _bring_large(objects: Objects, target: Path, file: File, moved: Moved) -> None:
    """Write a large file, object by object, beside its place; an earlier attempt's beginning is kept."""
    part = target.with_name(f".{target.name}.{file.digest[:16]}.part")
    with storage_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        done = part.stat().st_size if part.is_file() else 0
        with part.open("ab") as out:
            at = 0
            for span in file.spans:
                if at + span.length > done:
                    out.truncate(at)
                    out.write(_object(objects, span.name)[span.start : span.start + span.length])
                    out.flush()
                    done = at + span.length
                moved(span.length)
                at += span.length
            os.fsync(out.fileno())
        if digest_file(part) != file.digest:
            part.unlink()
            raise StorageError(f"found other content than was sent while bringing {target}: it is fetched anew")
        _finish(part, target, file)


@contextmanager
def _checked(target: Path, file: File) -> Iterator[Callable[[bytes], object]]:
    whole = hashlib.sha256()
    with replacing(target) as out:

        def write(data: bytes) -> None:
            whole.update(data)
            out.write(data)

        yield write
        if whole.hexdigest() != file.digest:
            raise StorageError(f"found other content than was sent while bringing {target}")
    if file.executable:
        target.chmod(0o755)


def _finish(part: Path, target: Path, file: File) -> None:
    part.chmod(0o755 if file.executable else 0o644)
    os.replace(part, target)


def _object(objects: Objects, name: str) -> bytes:
    """Return an object, held against its name; one that was cut off on the way is asked for twice."""
    for _ in range(2):
        data = need(objects.get(object_name(name)), object_name(name))
        if digest_bytes(data) == name:
            return data
    raise StorageError(f"{object_name(name)} in MLflow's artifact store is damaged: remove it, and send again")


@contextmanager
def _in_threads() -> Iterator[Callable[..., Future[_Sent]]]:
    """Yield what starts work in a few threads; at the end all of it is done, or the first fault is raised.

    No more is begun than threads can take, so that little is in memory and little is done after a fault.
    """
    with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="store") as pool:
        running: set[Future[_Sent]] = set()

        def submit(work: Callable[..., _Sent], *args: object) -> Future[_Sent]:
            if len(running) >= 2 * _N_THREADS:
                _drop_done(running, FIRST_COMPLETED)
            future = pool.submit(work, *args)
            running.add(future)
            return future

        yield submit
        for future in list(running):
            future.result()


def _drop_done(running: set[Future[_Sent]], until: str) -> None:
    done, _ = wait(running, return_when=until)
    for future in done:
        future.result()
    running -= done


def known_places(files: Iterable[File]) -> dict[str, tuple[Span, ...]]:
    """Return where content lies, by its digest."""
    return {file.digest: file.spans for file in files if file.digest and (file.spans or not file.size)}


def objects_of(files: Iterable[File]) -> set[str]:
    """Return the objects in which the content of files lies, by their digests."""
    return {span.name for file in files for span in file.spans}
