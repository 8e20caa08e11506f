"""Removes data sets from the store, with the objects that no other data set needs.

The store has no locks. So a removal first leaves a note in it, then takes the names away, then reads what is named
still, and only then removes objects. Who puts a data set names it first, and looks for notes and for its objects after
that: of two at the same moment at least one sees the other, or what it has done. Who puts waits for the removal to end,
and sends again what is gone.

A note counts up while its process lives. One that stands still was left by a process that was killed, and whoever comes
next goes on with it: the objects of names that are gone go, names that it had not come to stay.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import uuid4

from tasks.base.errors import StorageError, TransferError
from tasks.store.objects import Objects
from tasks.store.packing import OBJECTS, Sizes, object_name, objects_of
from tasks.store.pointers import MANIFESTS, Pointer, all_pointers, files_of, manifest_name, read_files

_NOTES = "data-removals"
_BEAT_S = 2.0
_STALLED_S = 8.0
"""A removal that could not count for so long may be taken for dead soon: it reads anew what is named."""

_DEAD_S = 20.0
_N_THREADS = 4


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal has done.

    Args:
        n_versions: that the name stood for.
        n_bytes: that it has freed in the store.
        n_kept: bytes of it that stay, because other data sets have them too.
    """

    n_versions: int
    n_bytes: int
    n_kept: int


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # seconds; goes on while a machine sleeps


class Removal:
    """A removal under way, from its note to its end.

    Args:
        objects: the store.
        pointers: what is taken away: all of a name, or some of its versions.
        note: of one that was cut off; None: a new one.
    """

    def __init__(self, objects: Objects, pointers: Sequence[Pointer], note: str | None = None) -> None:
        self._objects, self._pointers = objects, sorted(pointers, key=lambda pointer: pointer.at_ms)
        self._note = note or f"{_NOTES}/{uuid4().hex}.json"
        self._count, self._last = 0, _now()
        self._stalled = False

    def run(self, is_needed: Callable[[], object]) -> Removed:
        """Take the names away and remove what nobody needs any more.

        Args:
            is_needed: is asked once the names are gone, and raises where a run has begun to need them meanwhile: they
                are put back then.

        Raises:
            TransferError: MLflow does not answer, or refuses; the same command goes on.
            StorageError: a manifest is damaged.
        """
        with self._beating():
            self._take_names_away(is_needed)
            removed = self._remove_objects()
        self._objects.remove(self._note)
        return removed

    def clean(self) -> dict[str, int]:
        """Remove what no name stands for, as a put that was cut off leaves it; return the bytes of each object.

        Raises:
            TransferError: MLflow does not answer, or refuses; the same command goes on.
            StorageError: a manifest is damaged.
        """
        with self._beating():
            manifests = {name.partition(".")[0] for name in _all_below(self._objects, MANIFESTS)}
            freed, named, _ = self._free(_all_below(self._objects, OBJECTS), Sizes(self._objects))
            for digest in manifests - named:
                self._objects.remove(manifest_name(digest))
        self._objects.remove(self._note)
        return freed

    def _take_names_away(self, is_needed: Callable[[], object]) -> None:
        taken: list[tuple[str, bytes]] = []
        try:
            for pointer in self._pointers:  # the latest last: until then the name stands for what it stood for
                if (data := self._objects.get(pointer.place)) is not None:
                    taken.append((pointer.place, data))
                    self._objects.remove(pointer.place)
            is_needed()
        except BaseException:
            with suppress(TransferError):
                for place, data in reversed(taken):
                    self._objects.put(place, data)
                self._objects.remove(self._note)
            raise

    def _remove_objects(self) -> Removed:
        digests = {pointer.digest for pointer in self._pointers}
        gone = {digest: files for digest in sorted(digests) if (files := read_files(self._objects, digest)) is not None}
        whole = objects_of(file for files in gone.values() for file in files.values())
        sizes = Sizes(self._objects)
        freed, named, kept = self._free(whole, sizes)
        for digest in gone.keys() - named:
            self._objects.remove(manifest_name(digest))
        return Removed(len(self._pointers), sum(freed.values()), sum(sizes.of(name) or 0 for name in kept))

    def _free(self, whole: set[str], sizes: Sizes) -> tuple[dict[str, int], set[str], set[str]]:
        """Remove those of some objects that no data set needs.

        Args:
            whole: the objects.
            sizes: of what the store has.

        Returns:
            The bytes of each that is gone, the digests that names stand for, and which of the objects stay.
        """
        named, kept = self._named(whole)
        freed: dict[str, int] = {}
        left = whole - kept
        with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="store") as pool:
            while left:
                done = dict(pool.map(lambda name: (name, self._drop(sizes, name)), sorted(left)))
                freed |= {name: size for name, size in done.items() if size is not None}
                left = {name for name, size in done.items() if size is None}
                if self._stalled:
                    self._stalled = False
                    named, kept = self._named(whole)
                    left -= kept
        return freed, named, kept

    def _drop(self, sizes: Sizes, name: str) -> int | None:
        """Remove an object and return its bytes; None: it is to be asked anew whether it is needed."""
        self._stalled |= _now() - self._last > _STALLED_S
        if self._stalled:
            return None
        size = sizes.of(name) or 0
        self._objects.remove(object_name(name))
        return size

    def _named(self, whole: Collection[str]) -> tuple[set[str], set[str]]:
        """Return the digests that names stand for, and which of some objects are in one of those data sets."""
        digests = {pointer.digest for pointer in all_pointers(self._objects)}
        kept: set[str] = set()
        for digest in sorted(digests) if whole else ():
            kept |= objects_of(files_of(self._objects, digest).values()) & set(whole)
        return digests, kept

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Leave the note, and count it up for the block, in a thread of its own."""
        self._write()
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(over,), name="removal-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(_BEAT_S):
            with suppress(TransferError):  # whoever removes objects has the same trouble, and says so
                self._write()

    def _write(self) -> None:
        self._count += 1
        content = {"count": self._count, "pointers": [asdict(pointer) for pointer in self._pointers]}
        self._objects.put(self._note, json.dumps(content).encode())
        self._stalled |= _now() - self._last > _STALLED_S
        self._last = _now()


def _all_below(objects: Objects, folder: str) -> set[str]:
    """Return the last names of all that lies in the folders of a folder."""
    return {name for below in objects.sizes(folder) for name in objects.sizes(f"{folder}/{below}")}


@dataclass(frozen=True, slots=True)
class Note:
    """What a removal has left in the store while it works, or for good where it was killed."""

    place: str
    pointers: tuple[Pointer, ...]

    @classmethod
    def read(cls, place: str, data: bytes) -> Self:
        """Return a note from its bytes.

        Raises:
            StorageError: they are none of ours.
        """
        try:
            content: dict[str, Any] = json.loads(data)
            return cls(place, tuple(Pointer(**each) for each in content["pointers"]))
        except (ValueError, TypeError, KeyError) as exc:
            raise StorageError(f"cannot read {place} in MLflow's artifact store: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Finished:
    """A removal that another process had begun, and what became of it.

    Args:
        names: that it took away; empty: it has ended by itself meanwhile, or cannot be finished.
        removed: what was left to do, by this process.
    """

    names: frozenset[str] = frozenset()
    removed: Removed | None = None


def finish_others(objects: Objects) -> list[Finished]:
    """Wait for removals that are under way, and finish those that were cut off.

    Raises:
        TransferError: MLflow does not answer, or refuses.
    """
    places = [f"{_NOTES}/{name}" for name in sorted(objects.sizes(_NOTES))]
    return [_finish(objects, place, _at_rest(objects, place)) for place in places]


def _finish(objects: Objects, place: str, data: bytes | None) -> Finished:
    if data is None:
        return Finished()
    try:
        note = Note.read(place, data)
        gone = [pointer for pointer in note.pointers if objects.get(pointer.place) is None]  # the others stay
        return Finished(frozenset(each.name for each in gone), Removal(objects, gone, place).run(lambda: None))
    except StorageError:  # the next removal says so: until that is mended, nobody can remove anything
        return Finished()


def _at_rest(objects: Objects, place: str) -> bytes | None:
    """Return a note that has not counted up for long enough; None: its removal has ended meanwhile."""
    before, since = objects.get(place), _now()
    while before is not None and _now() - since < _DEAD_S:
        time.sleep(_BEAT_S / 2)
        now = objects.get(place)
        if now != before:
            before, since = now, _now()
    return before
