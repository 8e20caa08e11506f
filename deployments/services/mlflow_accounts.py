"""People's accounts on the yard's MLflow server, by its own REST calls."""

from dataclasses import dataclass

from deployments.inbox.mlflow_http import MlflowHttp
from tasks.base.errors import ConfigError
from tasks.base.servers.mlflow_account import LEAST_LENGTH, account_file, known_account


@dataclass(frozen=True, slots=True)
class Account:
    """An account; an admin may do all, and add others."""

    name: str
    admin: bool


def accounts(mlflow: MlflowHttp) -> list[Account]:
    """Return who may log in, by name.

    Raises:
        ConfigError: MLflow refuses, or asks for no account at all.
        ServiceError: it does not answer.
    """
    found = mlflow.ask("GET", "users/list")["users"]
    return sorted((Account(one["username"], bool(one["is_admin"])) for one in found), key=lambda one: one.name)


def add(mlflow: MlflowHttp, name: str, secret: str) -> None:
    """Let a person log in.

    Raises:
        ConfigError: the password is short, there is such an account, or MLflow refuses.
        ServiceError: it does not answer.
    """
    check_secret(secret)
    mlflow.ask("POST", "users/create", {"username": name, "password": secret})


def change(mlflow: MlflowHttp, name: str, secret: str) -> None:
    """Give an account another password: one's own, or as an admin that of another one.

    Raises:
        ConfigError: the password is short, it is the yard's own account, or MLflow refuses.
        ServiceError: it does not answer.
    """
    check_secret(secret)
    known, _, before = (known_account(mlflow.url) or "").partition(":")
    if name == known and account_file().exists():
        raise ConfigError(
            f"found {name!r}, the yard's own account: write another NAME:SECRET into {account_file()}, then "
            "`yard down` and `yard up`"
        )
    body = {"username": name, "password": secret}
    mlflow.ask("PATCH", "users/update-password", body | ({"current_password": before} if name == known else {}))


def remove(mlflow: MlflowHttp, name: str) -> None:
    """Let a person log in no longer; what they have logged stays.

    Raises:
        ConfigError: there is no such account, or MLflow refuses.
        ServiceError: it does not answer.
    """
    mlflow.ask("DELETE", "users/delete", {"username": name})


def check_secret(secret: str) -> None:
    """Hold a password against MLflow's rule.

    Raises:
        ConfigError: it is too short.
    """
    if len(secret) < LEAST_LENGTH:
        raise ConfigError(f"found a password of {len(secret)} characters, need {LEAST_LENGTH}")
