"""The commands `yard data ...`: data sets that all hosts of a yard can reach by name."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document, see docs/services.md")]


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    group = typer.Typer(no_args_is_help=True, help="Data sets that every host of the yard reaches by name.")
    group.command("put")(put)
    group.command("list")(list_all)
    group.command("get")(get)
    group.command("remove")(remove)
    group.command("clean")(clean)
    app.add_typer(group, name="data")


def put(
    folder: Annotated[Path, typer.Argument(help="With the data")],
    name: Annotated[str | None, typer.Option(help="By which it is found; that of the folder without it")] = None,
    as_json: Json = False,
) -> None:
    """Put a folder into MLflow's artifact store; runs on any host then take it as data:NAME.

    Only what the store does not have yet is sent. Cut off, the same command goes on.
    """
    from deployments.cli.terminal.tables import print_json
    from deployments.data_sets.transfer_bar import transfer_bar
    from deployments.stack.stack import mlflow_url
    from gpu_pools.names import asker
    from tasks.store.datasets import DataSets
    from tasks.store.objects import Objects

    with Objects(mlflow_url()) as objects, transfer_bar(f"sends {folder.name}", quiet=as_json) as moved:
        made = DataSets(objects).put(folder, name or folder.resolve().name, asker(), moved)
    if as_json:
        print_json({"address": made.address, "digest": made.digest, "files": made.n_files, "bytes": made.n_bytes})
    else:
        typer.echo(f"{made.address}: {made.n_files} files, {made.n_bytes / 1e6:.1f} MB; data:{made.name} names it")


def list_all(
    versions: Annotated[bool, typer.Option("--versions", help="Also what the names stood for before")] = False,
    as_json: Json = False,
) -> None:
    """List the data sets, each as its name stands for it now, with size, date, age and owner."""
    import time
    from dataclasses import asdict
    from datetime import datetime

    from deployments.cli.terminal.tables import duration, print_json
    from deployments.stack.stack import mlflow_url
    from tasks.store.datasets import DataSets
    from tasks.store.objects import Objects

    with Objects(mlflow_url()) as objects:
        found = DataSets(objects).all(versions=versions)
    if as_json:
        print_json([{**asdict(one), "address": one.address} for one in found])
        return
    if not found:
        typer.echo("no data sets; `yard data put FOLDER` adds one")
    width = max((len(one.address) for one in found), default=0)
    for one in found:
        age = duration(max(0.0, time.time() - one.put_at))
        put_at = f"{datetime.fromtimestamp(one.put_at):%Y-%m-%d %H:%M}, {age} ago"
        size = f"{one.n_files:>8} files {one.n_bytes / 1e6:>10.1f} MB"
        typer.echo(f"{one.address:<{width}}  {size}  {put_at}  {one.owner}")


def get(
    data: Annotated[str, typer.Argument(metavar="data:NAME", help="Or data:NAME@DIGEST")],
    folder: Annotated[Path, typer.Argument(help="That is made for it")],
) -> None:
    """Write a data set into a new folder of this machine; cut off, the same command goes on."""
    from deployments.data_sets.transfer_bar import transfer_bar
    from deployments.stack.stack import mlflow_url
    from tasks.store.datasets import DataSets
    from tasks.store.objects import Objects

    with Objects(mlflow_url()) as objects, transfer_bar(f"brings {data}") as moved:
        found = DataSets(objects).find(data)
        DataSets(objects).copy(found.digest, folder, moved)
    typer.echo(f"{found.address}: {found.n_files} files in {folder}")


def remove(
    data: Annotated[str, typer.Argument(metavar="NAME", help="With all it stood for; or data:NAME@DIGEST alone")],
    force: Annotated[bool, typer.Option("--force", help="Somebody else's, too; it is noted")] = False,
    as_json: Json = False,
) -> None:
    """Remove a data set from the store, with the files that no other data set has.

    Refused while a run that waits or runs names it. Cut off, the same command goes on.
    """
    from deployments.api import connect
    from deployments.cli.terminal.tables import print_json
    from deployments.data_sets import removing
    from deployments.stack.stack import mlflow_url
    from tasks.store.objects import Objects

    with connect() as api, Objects(mlflow_url()) as objects:
        done = removing.remove(api, objects, data, force=force)
    found = done.removed
    if as_json:
        freed = {"versions": found.n_versions, "freed_bytes": found.n_bytes, "kept_bytes": found.n_kept}
        print_json({"address": done.address, **freed})
        return
    text = f"{done.address} is removed: {found.n_bytes / 1e6:.1f} MB freed"
    text += f", {found.n_kept / 1e6:.1f} MB stay for other data sets" if found.n_kept else ""
    typer.echo(text + (" (the rest of a removal that was cut off)" if done.resumed else ""))


def clean(as_json: Json = False) -> None:
    """Remove from the store what no data set needs, as a put that was cut off has left it.

    A put that is under way sends again what it loses.
    """
    from deployments.api import connect
    from deployments.cli.terminal.tables import print_json
    from deployments.data_sets import removing
    from deployments.stack.stack import mlflow_url
    from tasks.store.objects import Objects

    with connect() as api, Objects(mlflow_url()) as objects:
        freed = removing.clean(api, objects)
    if as_json:
        print_json({"objects": len(freed), "freed_bytes": sum(freed.values())})
    elif freed:
        typer.echo(f"{len(freed)} objects that no data set needs are removed: {sum(freed.values()) / 1e6:.1f} MB freed")
    else:
        typer.echo("nothing is left over: every object is one of a data set")
