"""Where the inbox keeps what, and the record of an item from the moment it is taken."""

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.base.errors import StorageError
from tasks.base.home import home_mode, make_home
from tasks.base.outside import MIB, read_json
from tasks.base.workspace import home, storage_errors, write_atomic, write_json

State = Literal["taken", "submitted", "rejected"]

DONE, REJECTED = "done", "rejected"
WHY = "why.txt"
_RECORD = "item.json"
_TAKING = ".taking"
_MAX_STEM = 60


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is to become a run, as its folder says.

    Args:
        key: name of the folder, and of the run; the server makes one run of it, however often it is asked.
        flow: name of the flow.
        name: of the file or folder.
        owner: user@host.
        yaml_name: of the file of parameters; empty: there is none.
        signature: of the file or folder when it was taken; empty for one that was sent.
        upload: id of the MLflow run by which it was sent; empty: it lay in the inbox.
        taken_at: seconds since 1970.
        state: how far it is.
        run: id of the run; empty: it has none yet.
        attempts: how often its taking began.
        trouble: why it still waits.
    """

    key: str
    flow: str
    name: str
    owner: str
    yaml_name: str
    signature: str
    upload: str
    taken_at: float
    state: State = "taken"
    run: str = ""
    attempts: int = 0
    trouble: str = ""


def inbox() -> Path:
    """Return the folder of the inbox; what people drop lies in its folders, each called like a flow."""
    return home() / "inbox"


def flow_folder(flow: str) -> Path:
    """Return where things for a flow are dropped."""
    return inbox() / flow


def taking(key: str = "") -> Path:
    """Return the folder of an item that is being taken; without a key that of all of them."""
    return inbox() / _TAKING / key


def done(key: str = "") -> Path:
    """Return the folder of an item that has, or is about to have, a run; its data stay there."""
    return inbox() / DONE / key


def rejected(key: str = "") -> Path:
    """Return the folder of an item that became no run, with the reason in it."""
    return inbox() / REJECTED / key


def data_of(folder: Path, item: Item) -> Path:
    """Return where what was dropped lies in the folder of an item."""
    return folder / "data" / item.name


def make_inbox(flows: list[str]) -> Path:
    """Return the inbox, made with its folders where they are missing.

    Who is in the group of the home may drop something where the home lets the group in; nobody else may.

    Args:
        flows: that take data.

    Raises:
        StorageError: it cannot be made.
    """
    make_home()
    mode = home_mode() & 0o750
    drop = 0o2770 if mode & 0o010 else 0o700
    folders = {inbox(): mode, taking(): 0o700, done(): mode, rejected(): mode}
    with storage_errors(inbox()):
        for folder, wanted in {**folders, **dict.fromkeys(map(flow_folder, flows), drop)}.items():
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(wanted)  # whatever the umask; one that is there stays as people have it
    return inbox()


def fetching(key: str) -> Path:
    """Return the folder of an item whose data are still on their way from another machine."""
    return taking() / f".{key}"


def stem_of(name: str) -> str:
    """Return the name of a file without its suffix, or both of them: `room` of `room.tar.gz`."""
    stem = Path(name).stem
    return stem[: -len(".tar")] if stem.lower().endswith(".tar") else stem


def key_of(flow: str, name: str, mark: str) -> str:
    """Return a name for a folder and its run, by which people know what it was.

    Args:
        flow: name of the flow.
        name: of the file or folder.
        mark: tells it from others of that name.
    """
    ascii_only = unicodedata.normalize("NFKD", stem_of(name)).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^\w-]+", "-", ascii_only).strip("-_")[:_MAX_STEM] or "item"
    return f"{flow}-{stem}-{mark}"


def write_item(folder: Path, item: Item) -> None:
    """Write the record of an item into its folder, whole and on the disk."""
    write_json(folder / _RECORD, asdict(item))


def read_item(folder: Path) -> Item | None:
    """Return the record in a folder; None where there is none: whoever made the folder was killed before it.

    Raises:
        StorageError: the record is damaged.
    """
    path = folder / _RECORD
    if not path.is_file():
        return None
    try:
        return Item(**read_json(path, StorageError, 8 * MIB))
    except TypeError as exc:
        raise StorageError(f"cannot read {path}: need the record of an item; {exc}") from exc


def items(folder: Path) -> Iterator[tuple[Path, Item]]:
    """Yield the folders of items below one, and their records, by name; one whose record is damaged stays as it is."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith("."):
            try:
                item = read_item(path)
            except StorageError as exc:
                print(f"left alone: {exc}", file=sys.stderr)
                continue
            if item is not None:
                yield path, item


def reject(folder: Path, item: Item, why: str) -> None:
    """Move the folder of an item to those that were rejected, with the reason in it."""
    write_item(folder, replace(item, state="rejected", trouble=why))
    write_atomic(folder / WHY, f"{item.name} for {item.flow} became no run:\n{why}\n".encode())
    with storage_errors(rejected()):
        folder.rename(rejected(item.key))


def sync_folder(folder: Path) -> None:
    """Have what was renamed into or out of a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_view(view: Mapping[str, Any]) -> None:
    """Write what waits, for those who ask; a reader sees the old or the new."""
    write_atomic(inbox() / ".view.json", json.dumps(view).encode())


def read_view() -> dict[str, Any]:
    """Return what was last written of what waits; empty where nothing was."""
    path = inbox() / ".view.json"
    found: dict[str, Any] = read_json(path, StorageError, 64 * MIB) if path.is_file() else {}
    return found
