"""A slot that one run holds by kernel locks, which the kernel frees when the processes are gone.

A slot has two lock files. `<uuid>.<kind>.<number>.worker` is held by the worker that placed the run and dies with it;
`.run` is held by the run's process and by those it hands it to. The slot is free when both are. After a death the
worker frees its own (`_end` in `gpu_pools.worker.run_monitor`), or keeps it for a run that starts again
(`gpu_pools.slots.kept_slots`). A lock belongs to the open file description, so a stopped process keeps it, a killed one
loses it, and no clock is involved.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Self

from gpu_pools.placement.queues import KINDS, Kind
from gpu_pools.slots import slot_files
from gpu_pools.slots.slot_files import UNKNOWN, Holder, SlotProgress, lock_dir
from tasks.base.file_locks import lock

__all__ = ["Holder", "Lease", "SlotProgress", "acquire", "holders", "lock_dir", "report_progress"]

_PATH = "TRAINYARD_LEASE"
_RUN = "TRAINYARD_LEASE_RUN"
_GUARD_WAIT_S = 1.0
_LOOKER_WAIT_S = 0.1
_SLOT = re.compile(rf"(?P<uuid>.+)\.(?P<kind>{'|'.join(KINDS)})\.(?P<number>[0-9]+)\.run")


class Lease:
    """A slot that this process holds for a run; `with` lets go of it at the end of the block.

    Attributes:
        holder: the run, as in the slot's record.
        slot: the slot's `.run` file.
    """

    def __init__(self, holder: Holder, slot: Path, worker_fd: int, run_fd: int) -> None:
        self.holder = holder
        self.slot = slot
        self._worker_fd: int | None = worker_fd
        self._run_fd: int | None = run_fd

    @property
    def run_fd(self) -> int:
        """The lock to pass to the run's process (`pass_fds`), inheritable.

        Raises:
            ValueError: it was handed over or released.
        """
        if self._run_fd is None:
            raise ValueError(f"the lock of {self.slot} was handed over or released")
        return self._run_fd

    @property
    def env(self) -> dict[str, str]:
        """The variables by which the run's process finds its record."""
        return {_PATH: str(self.slot), _RUN: self.holder.run_id}

    def record(self, *, pid: int | None = None, progress: SlotProgress | None = None) -> None:
        """Write into the slot's record what is known now; what is None stays.

        Raises:
            StorageError: the record cannot be written.
        """
        if pid is not None:
            self.holder = replace(self.holder, pid=pid)
            slot_files.write_holder(self.slot, self.holder)
        if progress is not None:
            self.holder = replace(self.holder, progress=progress)
            slot_files.write_progress(self.slot, self.holder.run_id, progress)

    def hand_over(self) -> None:
        """Close this process's copy of the run's lock: from now on it lives as long as the run's processes."""
        if self._run_fd is not None:
            os.close(self._run_fd)
            self._run_fd = None

    def retake(self) -> bool:
        """Take the run's lock again for its next process; return whether it could be: its processes are gone."""
        if self._run_fd is None and self._worker_fd is not None:
            self._run_fd = _locked(self.slot)
            if self._run_fd is not None:
                os.set_inheritable(self._run_fd, True)
        return self._run_fd is not None

    def release(self) -> None:
        """Let go of the slot; it stays taken while a process of the run has its lock. Twice does no harm.

        Raises:
            StorageError: the record cannot be cleared; the locks are free all the same.
        """
        self.hand_over()
        if self._worker_fd is None:
            return
        try:
            if not slot_files.is_locked(
                self.slot
            ):  # nobody can take the slot in between: the worker's lock is still held
                slot_files.clear(self.slot)
        finally:
            os.close(self._worker_fd)
            self._worker_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


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
    folder = lock_dir()
    with _guarded(folder / f"{uuid}.{kind}.guard") as alone:
        if not alone:
            return None
        held = {number for _, _, number, slot in _slots(folder, uuid, kind) if _is_held(slot)}
        if len(held) >= limit:
            return None
        free = (number for number in count() if number not in held)
        for number in islice(free, 2):  # the second, in case somebody was stopped while he looked at the first
            wanted = replace(holder, uuid=uuid, kind=kind, number=number)
            lease = _take(slot_path(folder, wanted), wanted)
            if lease is not None:
                return lease
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


def own_holder() -> Holder | None:
    """Return the record of the slot that this process's run holds; None: it holds none.

    Raises:
        StorageError: the record cannot be read.
    """
    path = os.environ.get(_PATH)
    found = path and _SLOT.fullmatch(Path(path).name)
    if not path or not found:
        return None
    return slot_files.read_holder(Path(path), found["uuid"], _kind(found), int(found["number"]))


def report_progress(epoch: int, n_epochs: int, remaining_s: float | None, unit: str = "epoch") -> None:
    """Say from inside a run how far it is; does nothing in a run without a lease.

    Args:
        epoch, n_epochs: the one that is done, and how many there will be.
        remaining_s: seconds until the end, None where not known.
        unit: what is counted, where it is not epochs.

    Raises:
        StorageError: the record cannot be written.
    """
    path = os.environ.get(_PATH)
    if not path:
        return
    slot = Path(path)
    holder = own_holder()
    run_id = os.environ.get(_RUN) or (holder.run_id if holder else UNKNOWN)
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


def _take(slot: Path, holder: Holder) -> Lease | None:
    """Take a slot that was free a moment ago; only under the guard of its device and kind."""
    # Written before the locks are taken: a slot that is held has then never the text of the run before.
    slot_files.clear(slot)
    slot_files.write_holder(slot, holder)
    worker_fd = _locked(slot.with_suffix(".worker"))
    if worker_fd is None:
        return None
    run_fd = _locked(slot)
    if run_fd is None:
        os.close(worker_fd)
        return None
    os.set_inheritable(run_fd, True)
    return Lease(holder, slot, worker_fd, run_fd)


def _locked(path: Path) -> int | None:
    """Return an open file that holds a lock which nobody holds, waiting a moment for those who only look."""
    fd = slot_files.open_lock(path)
    if lock(fd, wait_s=_LOOKER_WAIT_S):
        return fd
    os.close(fd)
    return None


@contextmanager
def _guarded(path: Path) -> Iterator[bool]:
    fd = slot_files.open_lock(path)
    try:
        yield lock(fd, wait_s=_GUARD_WAIT_S)
    finally:
        os.close(fd)
