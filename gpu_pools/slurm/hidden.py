"""Passes passwords to jobs by a file that this user alone reads, not by what Slurm stores."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from tasks.base.errors import StorageError
from tasks.base.workspace import home, storage_errors

_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|CREDENTIAL|ACCESS_KEY|API_KEY", re.IGNORECASE)


_OF_THIS_PLACE = re.compile(r"SLURM_(?!CONF$)|CUDA_VISIBLE_DEVICES$")


def job_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job inherits: no secret, nor what is true of the submitting process alone.

    A service that is itself in a job of Slurm would pass on what that job has; and the GPU is Slurm's to name.
    """
    return {name: value for name, value in env.items() if not (_SECRET.search(name) or _OF_THIS_PLACE.match(name))}


def hide(env: Mapping[str, str]) -> None:
    """Write the secrets where jobs find them.

    Raises:
        StorageError: they cannot be written.
    """
    path = _path()
    secret = {name: value for name, value in env.items() if _SECRET.search(name)}
    beside = path.with_suffix(".new")
    with storage_errors(path):
        beside.unlink(missing_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(secret, file)
        beside.rename(path)


def hidden() -> dict[str, str]:
    """Return what was written; empty where nothing was.

    Raises:
        StorageError: the file is damaged, or others can read it.
    """
    path = _path()
    try:
        if path.lstat().st_mode & 0o077:
            raise StorageError(f"found {path} open to others: `chmod 600 {path}`, and change what is in it")
        return {str(name): str(value) for name, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as exc:
        raise StorageError(f"cannot read {path}: need variables as JSON; remove it") from exc


def _path() -> Path:
    return home() / "slurm" / "secrets"
