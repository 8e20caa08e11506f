"""The two locks of one slot that this process holds for a run, and the slot's record."""

import os
from dataclasses import replace
from pathlib import Path

from gpu_pools.slots import slot_files
from gpu_pools.slots.slot_files import Holder, SlotProgress
from tasks.base.file_locks import lock

_LOOKER_WAIT_S = 0.1


class SlotLock:
    """A slot of one device that this process holds for a run.

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
            self._run_fd = take_lock(self.slot)
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


def take_lock(path: Path) -> int | None:
    """Return an open file that holds a lock which nobody holds, waiting a moment for those who only look."""
    fd = slot_files.open_lock(path)
    if lock(fd, wait_s=_LOOKER_WAIT_S):
        return fd
    os.close(fd)
    return None
