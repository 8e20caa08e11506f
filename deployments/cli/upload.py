"""The command that sends data to a yard on another machine."""

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
    from deployments.data_sets.transfer_bar import transfer_bar
    from deployments.inbox.parcel import describe
    from deployments.inbox.uploading import await_run, send, where
    from deployments.runs.submit import gather_parameters
    from deployments.stack.stack import mlflow_url
    from gpu_pools.names import asker, short_id

    if not path.exists():
        raise ConfigError(f"found nothing at {path}, need a file or a folder")
    mlflow = where(mlflow_url())
    parameters = gather_parameters(file, values or [])
    _check(flow, parameters, path)
    manifest = describe(path.resolve(), flow=flow, owner=owner or asker(), parameters=parameters)
    with transfer_bar(f"sends {path.name}", quiet=as_json) as move:
        sent = send(mlflow, path.resolve(), manifest, move)
    run = await_run(mlflow, sent["id"]) if wait else str(sent["tags"].get("upload.run", ""))
    if as_json:
        print_json({"upload": sent["id"], "run": run or None, "bytes": manifest.n_bytes, "sha256": manifest.key})
    elif run:
        typer.echo(f"run {run}: `yard show {short_id(run)}` there")
    else:
        typer.echo(f"sent as upload {sent['id']}; the yard makes a run of it")


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


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(upload)
