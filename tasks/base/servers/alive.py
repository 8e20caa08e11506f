"""Tells whether the process that keeps a home's services up is alive, by its number and start time."""

import json
from pathlib import Path

from tasks.base.processes import identity
from tasks.base.workspace import home


def pid_file() -> Path:
    """Return the file that names the supervisor of this home."""
    return home() / "yard.pid"


def supervisor() -> int | None:
    """Return the process that keeps the stack of this home up, None where there is none."""
    found = read_pid()
    return found[0] if found and identity(found[0]) == found[1] else None


def read_pid() -> tuple[int, str] | None:
    """Return the number and the identity in the file; None where it is missing or damaged."""
    try:
        content = json.loads(pid_file().read_text())
        return int(content["pid"]), str(content["created"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # a damaged file names nobody
