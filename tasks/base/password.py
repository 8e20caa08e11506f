"""Reads the password of the yard's Prefect server from its file, for those who may read the file."""

import base64
import json
import os
import secrets
import stat

from tasks.base.alive import supervisor
from tasks.base.errors import StorageError
from tasks.base.home import make_home
from tasks.base.workspace import home, storage_errors

CLIENT = "PREFECT_API_AUTH_STRING"
"""Prefect's variable for those who ask."""

SERVER = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's variable for the server."""

_NAME = "password"


def make_password() -> None:
    """Make the password of this home unless it has one; `NAME:SECRET`, as Prefect takes it.

    Raises:
        StorageError: the file cannot be written, or others can read the one that is there.
    """
    path = make_home() / _NAME
    with storage_errors(path):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            password()
            return
        with os.fdopen(fd, "w") as file:
            file.write(f"yard:{secrets.token_urlsafe(24)}\n")


def password() -> str | None:
    """Return the password of this home, None where it has none or this user may not know it.

    Raises:
        StorageError: others can read it, or it is empty.
    """
    path = home() / _NAME
    try:
        found, text = path.lstat(), path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise StorageError(f"found {path} open to others: `chmod 600 {path}`, and change what is in it")
    if ":" not in text:
        raise StorageError(
            f"found no NAME:SECRET in {path}: write one, or remove it and `yard up --password` makes one"
        )
    return text


def known_password(url: str) -> str | None:
    """Return what this process shows a server: what the environment says, else the file, to this home's stack alone.

    Args:
        url: of its API, or below it.
    """
    return os.environ.get(CLIENT) or (password() if _is_own(url) else None)


def _is_own(url: str) -> bool:
    """Return whether `url` is the API of the stack that a living process keeps up: anybody may have the port later."""
    pid = supervisor()
    if pid is None or pid == os.getpid():  # which asks its own server alone, before it has written where that is
        return pid is not None
    try:
        own = str(json.loads((home() / "services.json").read_text())["prefect"]) + "/api"
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return f"{url.replace('//localhost:', '//127.0.0.1:').rstrip('/')}/".startswith(f"{own}/")


def headers(url: str) -> dict[str, str]:
    """Return what a request to one of Prefect's servers needs to be let in."""
    known = known_password(url)
    return {"Authorization": f"Basic {base64.b64encode(known.encode()).decode()}"} if known else {}
