"""Commands that say which runs are kept whatever their age: `yard pin` and `yard unpin`."""

from typing import Annotated

import typer

from deployments.cli.runs import RunArgument
from tasks.base.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    for command in (pin, unpin):
        app.command()(command)


def pin(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Its id, the beginning of it, or its name")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Those that are pinned")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Of --list: one JSON document, as `yard runs`")] = False,
) -> None:
    """Keep a run: housekeeping removes nothing of it, neither files nor records."""
    from dataclasses import asdict

    from deployments.api import connect
    from deployments.cli.tables import console, print_json, runs_table
    from deployments.lifecycle.pins import pinned_runs, set_pinned
    from deployments.runs.find import find_run, make_rows

    if (run is None) != listed or (as_json and not listed):
        raise ConfigError("found neither a run nor --list, or both, need one of them")
    with connect() as api:
        if run is not None:
            found = set_pinned(api, find_run(api, run), True)
            typer.echo(f"run {found['id']} ({found['name']}) is pinned: nothing of it is removed")
            return
        rows = make_rows(api, pinned_runs(api))
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        console().print(runs_table(rows))
    else:
        typer.echo("no run is pinned")


def unpin(run: RunArgument) -> None:
    """Let housekeeping treat a run as any other."""
    from deployments.api import connect
    from deployments.lifecycle.pins import set_pinned
    from deployments.runs.find import find_run

    with connect() as api:
        found = set_pinned(api, find_run(api, run), False)
        typer.echo(f"run {found['id']} ({found['name']}) is not pinned: it goes when its time is over")
