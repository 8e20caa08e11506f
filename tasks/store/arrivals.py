"""Brings to this host what a run needs, before it begins."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.base.errors import ConfigError
from tasks.base.workspace import run_path
from tasks.store.datasets import DataSets
from tasks.store.folder import SharedFolder
from tasks.store.objects import Objects
from tasks.store.places import Needs
from tasks.store.setting import hosts_share_a_disk

Told = Callable[[str, int, int], None]
"""Is told what is brought, and how many bytes of how many are here."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """What was brought.

    Args:
        data: where data sets lie here, by how parameters name them.
        folders: of all data sets.
    """

    data: dict[str, str]
    folders: tuple[Path, ...]


def run_folder(objects: Objects, run_id: str) -> SharedFolder:
    """Return the folder of a run, as all hosts share it; it need not be here.

    Raises:
        ConfigError: the name could lead out of the folder of all runs.
    """
    if (path := run_path(run_id)) is None:
        raise ConfigError(f"found the run {run_id!r}, need letters, digits, '_', '-' and '.'")
    return SharedFolder(path, f"runs/{run_id}", objects)


def goes_on_elsewhere(part: Path) -> bool:
    """Return whether a run that made a folder here, before its process died, works on another host by now.

    Args:
        part: a folder in that of the run.

    Raises:
        TransferError: MLflow does not answer, or refuses.
    """
    if hosts_share_a_disk() or run_path(part.parent.name) != part.parent:
        return False
    with Objects.of_environment() as objects:
        return run_folder(objects, part.parent.name).goes_on_elsewhere(part.name)


def bring_needs(objects: Objects, needs: Needs, told: Told = lambda what, done, total: None) -> Arrived:
    """Bring folders of runs and data sets to this host, each unless it is here.

    Raises:
        ConfigError: a data set does not exist.
        TransferError: MLflow does not answer, or refuses.
        StorageError: something is missing or damaged in the store, or the disk refuses.
    """
    sets = DataSets(objects)
    for run_id in sorted(needs.runs):
        run_folder(objects, run_id).bring(partial(told, f"files of run {run_id}"))
    data, folders = {}, []
    for address in sorted(needs.data):
        found = sets.find(address)
        folders.append(sets.bring(found.digest, partial(told, f"data set {found.name}")))
        data[address] = str(folders[-1])
    for digest in sorted(needs.digests):
        folders.append(sets.bring(digest, partial(told, f"data set {digest[:12]}")))
    return Arrived(data, tuple(folders))
