"""One round of housekeeping: every rule in its order, with one receipt."""

from collections.abc import Callable, Mapping

import httpx

from tasks.base.errors import StorageError, TrackingError
from tasks.housekeeping.house import House, look_around
from tasks.housekeeping.leftovers import remove_temporary, shrink_cache
from tasks.housekeeping.params import KeepParams
from tasks.housekeeping.receipt import RULES, Receipt
from tasks.housekeeping.records import Records
from tasks.housekeeping.removal import Remover
from tasks.housekeeping.services import remove_records, rotate_logs
from tasks.housekeeping.sweeps import remove_sweeps
from tasks.housekeeping.tracking import end_dead_runs, remove_deleted
from tasks.housekeeping.uploads import remove_rejected, remove_uploads
from tasks.housekeeping.workspaces import remove_checkpoints, remove_folders
from tasks.tracking.mlflow_api import TRANSIENT

_APPLY: Mapping[str, Callable[[House, Receipt], None]] = {
    "uploads": remove_uploads,
    "rejected": remove_rejected,
    "files": remove_folders,
    "checkpoints": remove_checkpoints,
    "sweeps": remove_sweeps,
    "temporary": remove_temporary,
    "cache": shrink_cache,
    "dead_runs": end_dead_runs,
    "deleted_runs": remove_deleted,
    "records": remove_records,
    "service_logs": rotate_logs,
}


def go_round(keep: KeepParams, now: float, *, dry_run: bool) -> Receipt:
    """Apply every rule; one whose server or folder fails is noted, and the others are applied all the same.

    Args:
        keep: how long what is kept.
        now: Unix seconds.
        dry_run: remove nothing.

    Raises:
        httpx.HTTPError: Prefect does not answer; nothing was removed then.
    """
    remover, receipt = Remover(dry_run=dry_run), Receipt(dry_run)
    house = look_around(Records(), keep, remover, now)
    for rule in RULES:
        try:
            _APPLY[rule](house, receipt)
        except (httpx.HTTPError, StorageError, TrackingError, *TRANSIENT) as exc:
            receipt.notes.append(f"{rule}: not all was done: {' '.join(str(exc).split())[:300]}")
    receipt.notes += remover.faults
    return receipt
