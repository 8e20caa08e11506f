"""Keeps the slots of a run whose process died, until the run starts again."""

from collections.abc import Collection

from gpu_pools.slots.lease import Lease


class KeptSlots:
    """The slots of each run that is to start again; this process holds their locks meanwhile, where it did before."""

    def __init__(self) -> None:
        self._slots: dict[str, tuple[tuple[str, ...], Lease | None]] = {}

    def keep(self, run_id: str, uuids: tuple[str, ...], lease: Lease | None) -> None:
        """Keep the slots on these devices for a run; None: their locks are not held here."""
        self.forget(run_id)
        self._slots[run_id] = (uuids, lease)

    def uuids(self, run_id: str) -> tuple[str, ...]:
        """Return the devices whose slots are kept for a run, none for none."""
        return self._slots[run_id][0] if run_id in self._slots else ()

    def take(self, run_id: str, uuids: Collection[str]) -> Lease | None:
        """Return the slots for the run's next process, if they are on these devices and their locks are held here."""
        kept, lease = self._slots.pop(run_id, ((), None))
        if lease is not None and (set(kept) != set(uuids) or not lease.retake()):
            lease.release()
            return None
        return lease

    def forget(self, run_id: str) -> None:
        """Let go of the slots of a run, if any are kept."""
        _, lease = self._slots.pop(run_id, ((), None))
        if lease is not None:
            lease.release()

    def forget_others(self, run_ids: Collection[str]) -> None:
        """Let go of all slots but those of these runs."""
        for run_id in self._slots.keys() - set(run_ids):
            self.forget(run_id)
