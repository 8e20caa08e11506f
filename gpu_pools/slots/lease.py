"""Slots that a run holds by kernel locks, which the kernel frees when the processes are gone.

A run has a slot on each of its devices, most runs one. A slot has two lock files. `<uuid>.<kind>.<number>.worker` is
held by the worker that placed the run and dies with it; `.run` is held by the run's process and by those it hands it
to. The slot is free when both are. After a death the worker frees its own (`gpu_pools.worker.monitor.run_monitor`), or
keeps it for a run that starts again (`gpu_pools.slots.kept_slots`). A lock belongs to the open file description, so a
stopped process keeps it, a killed one loses it, and no clock is involved.
"""

import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Self

from gpu_pools.placement.queues import KINDS, Kind
from gpu_pools.slots import slot_files
from gpu_pools.slots.slot_files import UNKNOWN, Holder, SlotProgress, lock_dir
from gpu_pools.slots.slot_lock import SlotLock, take_lock
from tasks.base.file_locks import lock

__all__ = ["Holder", "Lease", "SlotProgress", "acquire", "acquire_all", "holders", "lock_dir", "report_progress"]

_PATHS = "TRAINYARD_LEASE"  # of the slots, a line each
_RUN = "TRAINYARD_LEASE_RUN"
_GUARD_WAIT_S = 1.0
_SLOT = re.compile(rf"(?P<uuid>.+)\.(?P<kind>{'|'.join(KINDS)})\.(?P<number>[0-9]+)\.run")


class Lease:
    """The slots that this process holds for a run, one on each of its devices; `with` lets go of all at its end.

    Args:
        slots: one at least, in the order of the devices.
    """

    def __init__(self, slots: Sequence[SlotLock]) -> None:
        self._slots = tuple(slots)

    @property
    def holder(self) -> Holder:
        """The run, as in the record of its first slot."""
        return self._slots[0].holder

    @property
    def holders(self) -> tuple[Holder, ...]:
        """The run, as in the records of all its slots."""
        return tuple(slot.holder for slot in self._slots)

    @property
    def tag(self) -> str:
        """The devices as people write them: cuda:0, or cuda:0,cuda:2."""
        return ",".join(holder.device for holder in self.holders)

    @property
    def files(self) -> tuple[Path, ...]:
        """The `.run` files of the slots."""
        return tuple(slot.slot for slot in self._slots)

    @property
    def run_fds(self) -> tuple[int, ...]:
        """The locks to pass to the run's process (`pass_fds`), inheritable.

        Raises:
            ValueError: they were handed over or released.
        """
        return tuple(slot.run_fd for slot in self._slots)

    @property
    def env(self) -> dict[str, str]:
        """The variables by which the run's process finds its records and its locks."""
        return {_PATHS: "\n".join(map(str, self.files)), _RUN: self.holder.run_id}

    def record(self, *, pid: int | None = None, progress: SlotProgress | None = None) -> None:
        """Write into the slots' records what is known now; what is None stays.

        Raises:
            StorageError: a record cannot be written.
        """
        for slot in self._slots:
            slot.record(pid=pid, progress=progress)

    def hand_over(self) -> None:
        """Close this process's copies of the run's locks: from now on they live as long as the run's processes."""
        for slot in self._slots:
            slot.hand_over()

    def retake(self) -> bool:
        """Take the run's locks again for its next process; return whether all could be: its processes are gone."""
        return all([slot.retake() for slot in self._slots])

    def release(self) -> None:
        """Let go of the slots; each stays taken while a process of the run has its lock. Twice does no harm.

        Raises:
            StorageError: a record cannot be cleared; the locks are free all the same.
        """
        with ExitStack() as stack:
            for slot in self._slots:
                stack.callback(slot.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire_all(wanted: Sequence[tuple[int, Holder]]) -> Lease | None:
    """Take a slot on each of several devices, or none at all.

    Whoever takes several does so in the order of their uuids, and waits nowhere while it holds one: two that want the
    same cannot block each other, and one that is killed in between leaves nothing.

    Args:
        wanted: of each device, its limit for the kind of the run, and the run as its record there has it.

    Returns:
        None when one of them is not to be had, see `acquire`.

    Raises:
        StorageError: the locks cannot be read or made.
    """
    taken: dict[str, SlotLock] = {}
    with ExitStack() as stack:
        for limit, holder in sorted(wanted, key=lambda one: one[1].uuid):
            slot = _acquire(limit, holder)
            if slot is None:
                return None
            stack.callback(slot.release)
            taken[holder.uuid] = slot
        stack.pop_all()
    return Lease([taken[holder.uuid] for _, holder in wanted])


def acquire(uuid: str, kind: Kind, limit: int, holder: Holder) -> Lease | None:
    """Take the lowest free slot, if fewer than `limit` are held on this host, by whomever.

    Args:
        uuid: of the GPU, or "cpu".
        kind: of the run.
        limit: runs of that kind on that device at once; when it was lowered, those above it count until they end.
        holder: the run; its uuid, kind and number are set here.

    Returns:
        None when all are held, or when somebody stopped in the middle of taking one and nobody can tell (after 1 s).

    Raises:
        StorageError: the locks cannot be read or made.
    """
    slot = _acquire(limit, replace(holder, uuid=uuid, kind=kind))
    return None if slot is None else Lease([slot])


def _acquire(limit: int, holder: Holder) -> SlotLock | None:
    folder, uuid, kind = lock_dir(), holder.uuid, holder.kind
    with _guarded(folder / f"{uuid}.{kind}.guard") as alone:
        if not alone:
            return None
        held = {number for _, _, number, slot in _slots(folder, uuid, kind) if _is_held(slot)}
        if len(held) >= limit:
            return None
        free = (number for number in count() if number not in held)
        for number in islice(free, 2):  # the second, in case somebody was stopped while he looked at the first
            wanted = replace(holder, number=number)
            slot = _take(slot_path(folder, wanted), wanted)
            if slot is not None:
                return slot
    return None


def slot_path(folder: Path, holder: Holder) -> Path:
    """Return the file of a run's slot in the folder of the locks; its name is what `_SLOT` reads."""
    return folder / f"{holder.uuid}.{holder.kind}.{holder.number}.run"


def holders(uuid: str | None = None, kind: Kind | None = None) -> list[Holder]:
    """Return the runs that hold a slot now, by device, kind and number.

    Args:
        uuid: of one device; None: of all.
        kind: None: all.

    Raises:
        StorageError: the locks cannot be read.
    """
    found = []
    for its_uuid, its_kind, number, slot in sorted(_slots(lock_dir(), uuid, kind)):
        if _is_held(slot):
            holder = slot_files.read_holder(slot, its_uuid, its_kind, number)
            if holder.run_id != UNKNOWN or _is_held(slot):  # cleared because it was released just now
                found.append(holder)
    return found


def own_holders() -> list[Holder]:
    """Return the records of the slots that this process's run holds, in the order of its devices; none: it holds none.

    Raises:
        StorageError: a record cannot be read.
    """
    own = [(path, found) for path in _own_files() if (found := _SLOT.fullmatch(path.name))]
    return [slot_files.read_holder(path, its["uuid"], _kind(its), int(its["number"])) for path, its in own]


def own_holder() -> Holder | None:
    """Return the record of the first slot that this process's run holds; None: it holds none.

    Raises:
        StorageError: the record cannot be read.
    """
    return next(iter(own_holders()), None)


def run_locks() -> tuple[int, ...]:
    """Return the locks of the slots that this process has for its run, to pass on to a child of its own (`pass_fds`).

    A child that has them keeps the slots as long as it lives, whatever becomes of this process; it may pass them on.
    Empty in a process without a slot, and in one that was not given the locks.
    """
    own = {(found.st_dev, found.st_ino) for path in _own_files() if (found := _status(path))}
    return tuple(fd for fd in _open_fds() if own and _is_lock_of(fd, own))


def _own_files() -> list[Path]:
    return [Path(path) for path in os.environ.get(_PATHS, "").splitlines()]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _open_fds() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))


def _is_lock_of(fd: int, own: Collection[tuple[int, int]]) -> bool:
    """Return whether a descriptor is one of the locks; those of who only looks at the files are not inherited."""
    try:
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino) in own and os.get_inheritable(fd)
    except OSError:  # closed in between, as that of the listing itself
        return False


def report_progress(epoch: int, n_epochs: int, remaining_s: float | None, unit: str = "epoch") -> None:
    """Say from inside a run how far it is; does nothing in a run without a lease.

    Args:
        epoch, n_epochs: the one that is done, and how many there will be.
        remaining_s: seconds until the end, None where not known.
        unit: what is counted, where it is not epochs.

    Raises:
        StorageError: the record cannot be written.
    """
    slots = _own_files()
    if not slots:
        return
    holder = own_holder()
    run_id = os.environ.get(_RUN) or (holder.run_id if holder else UNKNOWN)
    for slot in slots:
        slot_files.write_progress(slot, run_id, SlotProgress(epoch, n_epochs, remaining_s, time.time(), unit))


def _kind(found: re.Match[str]) -> Kind:
    return next(kind for kind in KINDS if kind == found["kind"])


def _slots(folder: Path, uuid: str | None, kind: Kind | None) -> Iterator[tuple[str, Kind, int, Path]]:
    """Yield the slots that ever were: one above the limit is held when the limit was lowered."""
    with slot_files.lock_errors(folder):
        names = os.listdir(folder)
    for name in names:
        found = _SLOT.fullmatch(name)
        if found and uuid in (None, found["uuid"]) and kind in (None, found["kind"]):
            yield found["uuid"], _kind(found), int(found["number"]), folder / name


def _is_held(slot: Path) -> bool:
    return slot_files.is_locked(slot.with_suffix(".worker")) or slot_files.is_locked(slot)


def _take(slot: Path, holder: Holder) -> SlotLock | None:
    """Take a slot that was free a moment ago; only under the guard of its device and kind."""
    # Written before the locks are taken: a slot that is held has then never the text of the run before.
    slot_files.clear(slot)
    slot_files.write_holder(slot, holder)
    worker_fd = take_lock(slot.with_suffix(".worker"))
    if worker_fd is None:
        return None
    run_fd = take_lock(slot)
    if run_fd is None:
        os.close(worker_fd)
        return None
    os.set_inheritable(run_fd, True)
    return SlotLock(holder, slot, worker_fd, run_fd)


@contextmanager
def _guarded(path: Path) -> Iterator[bool]:
    fd = slot_files.open_lock(path)
    try:
        yield lock(fd, wait_s=_GUARD_WAIT_S)
    finally:
        os.close(fd)
