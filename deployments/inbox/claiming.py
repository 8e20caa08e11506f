"""Takes what has settled out of its folder, so that a kill between two steps loses nothing."""

import os
import pwd
import secrets
import shutil
import time
from pathlib import Path

from deployments.inbox.places import (
    Item,
    data_of,
    flow_folder,
    key_of,
    read_item,
    sync_folder,
    taking,
    write_item,
)
from deployments.inbox.settling import Found, signature
from gpu_pools.names import asker, host_name
from tasks.base.processes import is_written
from tasks.base.workspace import storage_errors


def claim(found: Found) -> str | None:
    """Move something with its file of parameters to a folder of its own; return the key, None where it is not whole.

    The steps are: a folder with the record, the file of parameters, the data. `recover` goes on from each.

    Args:
        found: that has settled.

    Raises:
        OSError: it cannot be moved: a folder of another user, or one on a disk of its own.
        StorageError: the disk is full.
    """
    path, flow = found.path, found.path.parent.name
    item = Item(
        key=key_of(flow, path.name, secrets.token_hex(4)),
        flow=flow,
        name=path.name,
        owner=_owner(path),
        yaml_name=found.yaml.name if found.yaml else "",
        signature=found.signature,
        upload="",
        taken_at=time.time(),
        state="rejected" if found.bad else "taken",  # in the record from the first, so that a kill does not lose it
        trouble=found.bad,
    )
    folder = taking(item.key)
    with storage_errors(folder):
        (folder / "data").mkdir(parents=True)
    write_item(folder, item)
    try:
        if not _move_in(folder, item):
            return None
    except OSError:
        _put_back(folder, item)
        raise
    return item.key


def recover(folder: Path) -> bool:
    """Go on with a claim that was cut off; return whether it is one: the item is in its folder, and to be looked after.

    Raises:
        StorageError: the record is damaged, or the disk is full.
    """
    item = read_item(folder)
    if item is None:  # nothing was moved before it
        shutil.rmtree(folder)
        return False
    return os.path.lexists(data_of(folder, item)) or _move_in(folder, item)


def _move_in(folder: Path, item: Item) -> bool:
    """Move what is not moved yet; or, if it has changed since it had settled, all of it back."""
    source, data = flow_folder(item.flow) / item.name, data_of(folder, item)
    yaml = folder / item.yaml_name if item.yaml_name else None
    dropped = source.with_name(item.yaml_name) if item.yaml_name else None
    try:
        if yaml and dropped and not yaml.exists():
            dropped.rename(yaml)
        if _mark(source, yaml) == item.signature:
            source.rename(data)
            sync_folder(source.parent)
            sync_folder(data.parent)
            # A writer that had it open goes on writing after it is moved.
            if _mark(data, yaml) == item.signature and not is_written(data.resolve()):
                return True
    except FileNotFoundError:
        pass  # somebody has removed it, or renamed it
    _put_back(folder, item)
    return False


def _put_back(folder: Path, item: Item) -> None:
    """Move all of an item to where it lay; where a new one of its name has come meanwhile, it gets another name."""
    target, data = flow_folder(item.flow), data_of(folder, item)
    name, n = item.name, 1
    if os.path.lexists(data):
        while os.path.lexists(target / name):
            n += 1
            name = f"{Path(item.name).stem} ({n}){Path(item.name).suffix}"
        data.rename(target / name)
    yaml = folder / (item.yaml_name or "none")
    beside = target / (item.yaml_name if name == item.name else f"{name}.yaml")
    if yaml.exists() and not beside.exists():  # one that has come meanwhile goes before it
        yaml.rename(beside)
    shutil.rmtree(folder)


def _mark(path: Path, yaml: Path | None) -> str:
    return signature(path) + (signature(yaml) if yaml else "")


def _owner(path: Path) -> str:
    """Return who dropped something, as far as its owner is known here."""
    uid = path.lstat().st_uid
    if uid == os.geteuid():
        return asker()
    try:
        return f"{pwd.getpwuid(uid).pw_name}@{host_name()}"
    except KeyError:
        return f"{uid}@{host_name()}"
