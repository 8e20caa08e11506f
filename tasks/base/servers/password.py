"""Reads the passwords of the yard's servers from their files, for those who may read the files."""

import base64
import json
import os
import secrets
import stat
from pathlib import Path

from tasks.base.errors import StorageError
from tasks.base.home import make_home
from tasks.base.servers.alive import supervisor
from tasks.base.workspace import home, storage_errors

CLIENT = "PREFECT_API_AUTH_STRING"
"""Prefect's variable for those who ask."""

SERVER = "PREFECT_SERVER_API_AUTH_STRING"
"""Prefect's variable for the server."""

FOLDER = "TRAINYARD_AUTH_DIR"
"""Names the folder of the files with passwords; without it they lie in the home."""

_NAME = "password"


def auth_folder() -> Path:
    """Return the folder of the files with passwords."""
    return Path(os.environ.get(FOLDER) or home()).absolute()


def password_file() -> Path:
    """Return the file with the password of Prefect's server."""
    return auth_folder() / _NAME


def make_password() -> None:
    """Make the password of this home unless it has one; `NAME:SECRET`, as Prefect takes it.

    Raises:
        StorageError: the file cannot be written, or others can read the one that is there.
    """
    make_home()
    if not new_secret(password_file(), f"yard:{secrets.token_urlsafe(24)}\n"):
        password()


def new_secret(path: Path, text: str) -> bool:
    """Write a file that its owner alone can read; return False where there is one, which stays as it is.

    Raises:
        StorageError: the file cannot be written.
    """
    with storage_errors(path):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            return False
        with os.fdopen(fd, "w") as file:
            file.write(text)
    return True


def password() -> str | None:
    """Return the password of this home, None where it has none or this user may not know it.

    Raises:
        StorageError: others can read it, or it is empty.
    """
    return named_secret(password_file(), "`yard up --password`")


def named_secret(path: Path, maker: str) -> str | None:
    """Return the NAME:SECRET in a file, None where there is no file or this user may not read it.

    Args:
        path: of the file.
        maker: the command that makes one, for messages.

    Raises:
        StorageError: others can read it, or it holds none.
    """
    text = secret_text(path)
    if text is not None and ":" not in text:
        raise StorageError(f"found no NAME:SECRET in {path}: write one, or remove it and {maker} makes one")
    return text


def secret_text(path: Path) -> str | None:
    """Return what is in a file that only its owner may read, None where there is none or this user may not read it.

    Raises:
        StorageError: others can read it.
    """
    try:
        found, text = path.lstat(), path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise StorageError(f"found {path} open to others: `chmod 600 {path}`, and change what is in it")
    return text


def known_password(url: str) -> str | None:
    """Return what this process shows a server: what the environment says, else the file, to this home's stack alone.

    Args:
        url: of its API, or below it.
    """
    return os.environ.get(CLIENT) or (password() if is_own(url, "prefect", "/api") else None)


def is_own(url: str, service: str, path: str = "") -> bool:
    """Return whether `url` is of the stack that a living process keeps up: anybody may have the port later.

    Args:
        url: of a service, or below it.
        service: prefect or mlflow.
        path: below which its API lies.
    """
    pid = supervisor()
    if pid is None or pid == os.getpid():  # which asks its own server alone, before it has written where that is
        return pid is not None
    try:
        own = str(json.loads((home() / "services.json").read_text())[service]) + path
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return f"{url.replace('//localhost:', '//127.0.0.1:').rstrip('/')}/".startswith(f"{own}/")


def headers(url: str) -> dict[str, str]:
    """Return what a request to one of Prefect's servers needs to be let in."""
    known = known_password(url)
    return basic(known) if known else {}


def basic(known: str) -> dict[str, str]:
    """Return the header that shows NAME:SECRET to a server."""
    return {"Authorization": f"Basic {base64.b64encode(known.encode()).decode()}"}
