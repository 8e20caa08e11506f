"""The command that sends data to a yard on another machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.base.errors import ConfigError


def upload(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="A video, an archive, a folder of images ...")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="train.preset=quick, as for yard submit")
    ] = None,
    flow: Annotated[str, typer.Option(help="That the data are for")] = "splatting",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="YAML with the parameters")] = None,
    owner: Annotated[str | None, typer.Option(help="user@host; you without it")] = None,
    wait: Annotated[bool, typer.Option(help="Until the yard has made a run of it")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, see docs/services.md")] = False,
) -> None:
    """Send data to the yard at MLFLOW_TRACKING_URI, where it becomes a run; cut off, the same command goes on."""
    from deployments.cli.terminal.tables import print_json
    from deployments.inbox.parcel import describe
    from deployments.inbox.sending import await_run, send, where
    from deployments.runs.submit import gather_parameters
    from gpu_pools.names import asker

    if not path.exists():
        raise ConfigError(f"found nothing at {path}, need a file or a folder")
    mlflow = where(mlflow_url())
    parameters = gather_parameters(file, values or [])
    _check(flow, parameters, path)
    manifest = describe(path.resolve(), flow=flow, owner=owner or asker(), parameters=parameters)
    with _bar(manifest.n_bytes, path.name, quiet=as_json) as move:
        sent = send(mlflow, path.resolve(), manifest, move)
    run = await_run(mlflow, sent["id"]) if wait else str(sent["tags"].get("upload.run", ""))
    if as_json:
        print_json({"upload": sent["id"], "run": run or None, "bytes": manifest.n_bytes, "sha256": manifest.key})
    elif run:
        typer.echo(f"run {run}: `yard show {run[:8]}` there")
    else:
        typer.echo(f"sent as upload {sent['id']}; the yard makes a run of it")


def mlflow_url() -> str:
    """Return where the yard's MLflow is: MLFLOW_TRACKING_URI, else that of this home's stack."""
    from deployments.stack.stack import running_stack

    if url := os.environ.get("MLFLOW_TRACKING_URI") or running_stack().get("mlflow"):
        return url
    raise ConfigError(
        "no MLflow server: set MLFLOW_TRACKING_URI to that of the yard, by ssh -L 5000:127.0.0.1:5000 YARD"
    )


def _check(flow: str, parameters: dict[str, Any], path: Path) -> None:
    """Say now, not after an hour of sending, that the flow does not take these parameters."""
    import json

    from deployments.runs.flow_list import load_flow
    from deployments.runs.local import check_parameters, data_parameter

    loaded = load_flow(flow)
    section = data_parameter(loaded)
    if section is None:
        raise ConfigError(f"found --flow {flow}, which takes no data: need one of those that do")
    if section in parameters:
        raise ConfigError(f"found {section}=..., which is what is sent: leave it out")
    copied = json.loads(json.dumps(parameters, default=str))
    check_parameters(loaded, {**copied, section: str(path)})


@contextmanager
def _bar(n_bytes: int, name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield what moves a bar on the terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    with Progress(
        TextColumn("{task.description}", markup=False), DownloadColumn(), TimeRemainingColumn(), console=console
    ) as progress:
        bar = progress.add_task(f"sends {name}", total=n_bytes)
        yield lambda done, _: progress.update(bar, completed=done)


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(upload)
