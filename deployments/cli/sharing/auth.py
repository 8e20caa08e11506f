"""The commands `yard auth ...`: passwords of the servers, and people's accounts on MLflow."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deployments.inbox.mlflow_http import MlflowHttp

Json = Annotated[bool, typer.Option("--json", help="One JSON document, see docs/lab.md")]
Name = Annotated[str, typer.Argument(help="Of the account")]


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    group = typer.Typer(no_args_is_help=True, help="Passwords of the servers, and people's accounts on MLflow.")
    for command in (init, users, add, password, remove):
        group.command()(command)
    app.add_typer(group, name="auth")


def init(
    folder: Annotated[Path | None, typer.Argument(help="For the files; TRAINYARD_HOME without it")] = None,
) -> None:
    """Make the passwords of Prefect and MLflow, in files that you alone can read; what is there stays."""
    from tasks.base.home import make_home
    from tasks.base.servers.mlflow_account import make_secrets
    from tasks.base.servers.password import FOLDER

    if folder is not None:
        os.environ[FOLDER] = str(folder.absolute())
    elif not os.environ.get(FOLDER):
        make_home()
    for path, new in make_secrets().items():
        typer.echo(f"{'made' if new else 'kept'} {path}")
    typer.echo("from its next start on `yard up` asks for them, and `yard`, the worker and its runs show them")
    if folder is not None:
        typer.echo(f"needs {FOLDER}={folder.absolute()} wherever they are used")


def users(as_json: Json = False) -> None:
    """List who may log in to MLflow."""
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.services.mlflow_accounts import accounts

    found = accounts(_mlflow())
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        typer.echo(f"{one.name}{'  admin' if one.admin else ''}")


def add(name: Name) -> None:
    """Add an account to MLflow; asks for its password, or reads it from a pipe."""
    from deployments.services.mlflow_accounts import add as create

    with _noted("add", name):
        create(_mlflow(), name, _secret(name))
    typer.echo(f"{name} can log in now: in the page, or by ~/.mlflow/credentials (docs/lab.md)")


def password(name: Name) -> None:
    """Change the password of an account of MLflow; asks for it, or reads it from a pipe."""
    from deployments.services.mlflow_accounts import change

    with _noted("password", name):
        change(_mlflow(), name, _secret(name))
    typer.echo(f"{name} has another password now")


def remove(name: Name) -> None:
    """Remove an account from MLflow; what it has logged stays."""
    from deployments.services.mlflow_accounts import remove as delete

    with _noted("remove", name):
        delete(_mlflow(), name)
    typer.echo(f"{name} is gone")


@contextmanager
def _noted(act: str, name: str) -> Iterator[None]:
    """Write the act of the block into the audit; whether it is allowed, MLflow says."""
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import Target

    with Acts(None, force=False, admins=()).act(act, Target("account", "", name)):
        yield


def _mlflow() -> "MlflowHttp":
    from deployments.inbox.uploading import where
    from deployments.stack.stack import mlflow_url

    return where(mlflow_url())


def _secret(name: str) -> str:
    """Return a password that is typed or comes by a pipe: in the command everybody on this machine could read it."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    typed: str = typer.prompt(f"password of {name}", hide_input=True, confirmation_prompt=True)
    return typed
