"""Reads the account by which the yard itself asks its MLflow server."""

import configparser
import os
import secrets
from pathlib import Path

from tasks.base.errors import ConfigError, StorageError
from tasks.base.servers.password import (
    auth_folder,
    basic,
    is_own,
    named_secret,
    new_secret,
    password,
    password_file,
    secret_text,
)
from tasks.base.workspace import storage_errors

USER, SECRET, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
"""MLflow's variables for those who ask."""

LEAST_LENGTH = 12
"""Characters of a password, as MLflow has it."""

_MAKER = "`yard auth init`"
_SETTINGS = """# Accounts of MLflow, in its own form, read at the start of its server: docs/lab.md.
[mlflow]
# What a person may do with the runs of others: READ, EDIT (add to them) or MANAGE (delete them).
default_permission = EDIT
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Seconds for which a password that was right counts; to hash it anew takes a tenth of a second of each request.
auth_cache_ttl_seconds = 60

[server]
# Signs the form of MLflow's page for new accounts; the same for all its processes.
secret_key = {key}
"""


def account_file() -> Path:
    """Return the file with the name and password of the yard's own account, which may do all."""
    return auth_folder() / "mlflow-password"


def settings_file() -> Path:
    """Return the file with the settings of MLflow's accounts; where it is, MLflow asks for one."""
    return auth_folder() / "mlflow-auth.ini"


def make_secrets() -> dict[Path, bool]:
    """Make the passwords of both servers; return each file, and whether it is new: one that is there stays.

    Raises:
        ConfigError: all are there already.
        StorageError: one cannot be written, or others can read one that is there.
    """
    folder = auth_folder()
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = {
        password_file(): new_secret(password_file(), f"yard:{secrets.token_urlsafe(24)}\n"),
        account_file(): new_secret(account_file(), f"yard:{secrets.token_urlsafe(24)}\n"),
        settings_file(): new_secret(settings_file(), _SETTINGS.format(key=secrets.token_urlsafe(32))),
    }
    password(), account(), server_settings()
    if not any(made.values()):
        names = ", ".join(path.name for path in made)
        raise ConfigError(f"found {names} in {folder}: nothing is overwritten; remove one, and it is made anew")
    return made


def server_settings() -> configparser.ConfigParser | None:
    """Return the settings of MLflow's accounts, None where it asks for none.

    Raises:
        StorageError: others can read them, or they are damaged.
    """
    path = settings_file()
    if (text := secret_text(path)) is None:
        return None
    found = configparser.ConfigParser(interpolation=None)
    try:
        found.read_string(text)
        found["mlflow"]["default_permission"], found["server"]["secret_key"]
    except (configparser.Error, KeyError) as exc:
        raise StorageError(f"cannot read {path}: need its sections mlflow and server; {_MAKER} makes one") from exc
    return found


def account() -> str | None:
    """Return NAME:SECRET of the yard's own account, None where it has none or this user may not know it.

    Raises:
        StorageError: others can read it, or it is empty.
    """
    return named_secret(account_file(), _MAKER)


def known_account(url: str) -> str | None:
    """Return what this process shows MLflow: what the environment says, the yard's own account to this home's stack
    alone, else what MLflow's own clients read, ~/.mlflow/credentials.

    Args:
        url: of the server, or below it.
    """
    if user := os.environ.get(USER):
        return f"{user}:{os.environ.get(SECRET, '')}"
    return (account() if is_own(url, "mlflow") else None) or _own_credentials()


def _own_credentials() -> str | None:
    found = configparser.ConfigParser(interpolation=None)
    try:
        found.read(Path("~/.mlflow/credentials").expanduser())
        return f"{found['mlflow'][USER.lower()]}:{found['mlflow'][SECRET.lower()]}"
    except (OSError, RuntimeError, KeyError, configparser.Error, UnicodeDecodeError):
        return None  # MLflow's client says it


def account_headers(url: str) -> dict[str, str]:
    """Return what a request to one of MLflow's servers needs to be let in."""
    if token := os.environ.get(TOKEN):
        return {"Authorization": f"Bearer {token}"}
    known = known_account(url)
    return basic(known) if known else {}


def account_variables(known: str | None) -> dict[str, str]:
    """Return NAME:SECRET as MLflow's own variables."""
    name, _, secret = (known or "").partition(":")
    return {USER: name, SECRET: secret} if name else {}


def let_in(url: str) -> None:
    """Let MLflow's client of this process use the yard's account, if `url` is of this home's stack."""
    if not os.environ.get(TOKEN):
        os.environ |= account_variables(known_account(url))
