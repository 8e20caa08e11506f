"""Commands that say which runs are kept whatever their age: `yard pin` and `yard unpin`."""

from typing import Annotated, Any

import typer

from deployments.cli.runs import RunArguments
from deployments.cli.sharing.choice import Choice, with_choice
from tasks.base.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    for command in (pin, unpin):
        app.command()(command)


@with_choice
def pin(
    runs: RunArguments = None,
    listed: Annotated[bool, typer.Option("--list", help="Those that are pinned")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Of --list: one JSON document, as `yard runs`")] = False,
    *,
    choice: Choice,
) -> None:
    """Keep runs: housekeeping removes nothing of them, neither files nor records."""
    if bool(runs or choice.chooses) == listed or (as_json and not listed):
        raise ConfigError("found neither a run nor --list, or both, need one of them")
    if listed:
        _list(as_json)
        return
    choice.check(runs)
    _set_each(runs, True, choice)


@with_choice
def unpin(runs: RunArguments = None, *, choice: Choice) -> None:
    """Let housekeeping treat runs as any others."""
    choice.check(runs)
    _set_each(runs, False, choice)


def _set_each(runs: list[str] | None, pinned: bool, choice: Choice) -> None:
    from deployments.api import connect
    from deployments.lifecycle.pins import runs_to_set, set_pinned
    from deployments.runs.run_actions import on_each
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    so = "is pinned: nothing of it is removed" if pinned else "is not pinned: it goes when its time is over"
    verb = "pin" if pinned else "unpin"
    with connect() as api:
        acts = Acts.of(api, force=choice.force)
        if runs is None:
            runs = choice.agreed(acts, verb, runs_to_set(api, pinned, flow=choice.flow, owner=choice.owner))

        def change(run: dict[str, Any]) -> None:
            with acts.act(verb, run_target(run)):
                set_pinned(api, run, pinned)
            typer.echo(f"run {run['id']} ({run['name']}) {so}")

        on_each(api, runs, change)


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from deployments.api import connect
    from deployments.cli.terminal.tables import console, print_json, runs_table
    from deployments.lifecycle.pins import pinned_runs
    from deployments.runs.find import make_rows

    with connect() as api:
        rows = make_rows(api, pinned_runs(api))
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        console().print(runs_table(rows))
    else:
        typer.echo("no run is pinned")
