"""Where a run serves its model: a file in its folder, from when requests are answered until it ends."""

from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.base.errors import DatasetError
from tasks.base.outside import MIB, read_json
from tasks.base.workspace import write_json

ADDRESS = "address.json"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a model answers.

    Args:
        run: its name.
        url: of the gate.
        model: its name.
        pid: of the engine's process.
        host: that it runs on.
        token_file: with the token that requests must bear; None: anybody may ask.
    """

    run: str
    url: str
    model: str
    pid: int
    host: str
    token_file: str | None


def write_address(folder: Path, address: Address) -> None:
    """Write the file into the folder of a serving run.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_json(folder / ADDRESS, asdict(address))


def read_address(path: Path) -> Address | None:
    """Return what such a file says; None: it is gone, or not one."""
    try:
        return Address(**read_json(path, DatasetError, MIB))
    except (DatasetError, TypeError):
        return None
