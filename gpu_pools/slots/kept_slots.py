"""Keeps the slot of a run whose process died, until the run starts again."""

from collections.abc import Collection

from gpu_pools.slots.lease import Lease


class KeptSlots:
    """A slot for each run that is to start again; this process holds its lock meanwhile, where it did before."""

    def __init__(self) -> None:
        self._slots: dict[str, tuple[str, Lease | None]] = {}

    def keep(self, run_id: str, uuid: str, lease: Lease | None) -> None:
        """Keep the slot on the device `uuid` for a run; None: its lock is not held here."""
        self.forget(run_id)
        self._slots[run_id] = (uuid, lease)

    def uuid(self, run_id: str) -> str:
        """Return the device whose slot is kept for a run, "" for none."""
        return self._slots[run_id][0] if run_id in self._slots else ""

    def take(self, run_id: str, uuid: str) -> Lease | None:
        """Return the slot for the run's next process, if it is on that device and its lock is held here."""
        kept, lease = self._slots.pop(run_id, ("", None))
        if lease is not None and (kept != uuid or not lease.retake()):
            lease.release()
            return None
        return lease

    def forget(self, run_id: str) -> None:
        """Let go of the slot of a run, if one is kept."""
        _, lease = self._slots.pop(run_id, ("", None))
        if lease is not None:
            lease.release()

    def forget_others(self, run_ids: Collection[str]) -> None:
        """Let go of all slots but those of these runs."""
        for run_id in self._slots.keys() - set(run_ids):
            self.forget(run_id)
