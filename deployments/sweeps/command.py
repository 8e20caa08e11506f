"""The command `yard sweep`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli.runs import JsonOption, Priority
from deployments.cli.terminal.flow_help import FlowCommand, MaybeFlowArgument, ValuesArgument
from tasks.base.errors import ConfigError

_TRIALS = 20


def sweep(
    flow: MaybeFlowArgument = None,
    values: ValuesArgument = None,
    space: Annotated[Path | None, typer.Option(help="YAML of what is searched, see docs/sweeps.md")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="YAML with what all trials share")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="As NAME=VALUE above")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="In all; 20 without it. With --resume: that many from now on")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=100, help="Trials that wait or run at once")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the search")] = 0,
    metric: Annotated[str | None, typer.Option(help="Of MLflow: loss/val; else the flow's own")] = None,
    direction: Annotated[str | None, typer.Option(help="Which values are better", metavar="maximize|minimize")] = None,
    prune_after: Annotated[
        int, typer.Option(min=0, help="Epochs after which a bad trial may be ended early; 0: none is")
    ] = 3,
    device: Annotated[str | None, typer.Option(help="cuda (any GPU), cuda:1, cpu, boxb/cuda:1")] = None,
    priority: Priority = None,
    time_limit: Annotated[str | None, typer.Option(help="90s, 30m, 5h or 2d; of each trial")] = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep; else the flow and the time")] = None,
    owner: Annotated[str | None, typer.Option(help="user@host; you without it")] = None,
    resume: Annotated[str | None, typer.Option(metavar="NAME", help="Go on with this sweep")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="NAME", help="End this sweep and its living trials")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="The sweeps of this home, the newest first")] = False,
    as_json: JsonOption = False,
    force: Annotated[bool, typer.Option("--force", help="Cancel one of somebody else, too; it is noted")] = False,
) -> None:
    """Search the parameters of a flow: each trial is a run in its queue, bad ones are ended early.

    All trials share what NAME=VALUE says.

    A sweep that was cut off (Ctrl-C, kill -9, power) goes on by `yard sweep --resume NAME`.
    """
    if sum((flow is not None, resume is not None, cancel is not None, list_all)) != 1:
        raise ConfigError("need one of: a flow, --resume NAME, --cancel NAME, --list")
    if as_json and not list_all:
        raise ConfigError("found --json without --list, need both")
    if list_all:
        _list(as_json)
        return
    if flow is not None and space is None:
        raise ConfigError("found no --space, need a YAML file of what is searched, see docs/sweeps.md")
    from deployments.sweeps import conduct
    from deployments.sweeps.record import Terms

    if cancel is not None:
        conduct.cancel(cancel, force=force, say=typer.echo)
        return
    if resume is not None:
        raise typer.Exit(conduct.go_on(resume, trials, typer.echo))
    assert flow is not None
    assert space is not None
    asked = conduct.Asked(
        flow=flow,
        parameters=_shared(file, values, assignments),
        space=space,
        name=name,
        metric=metric,
        direction=direction,
        terms=Terms(trials or _TRIALS, parallel, seed, prune_after, device, priority, time_limit),
        owner=owner,
    )
    raise typer.Exit(conduct.begin(asked, typer.echo))


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from deployments.cli.terminal.tables import console, print_json, sweeps_table
    from deployments.sweeps.listing import list_sweeps

    rows, faults = list_sweeps()
    for fault in faults:
        typer.echo(fault, err=True)
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        console().print(sweeps_table(rows, time.time()))
    else:
        typer.echo("no sweeps; `yard sweep FLOW --space FILE` begins one")


def _shared(file: Path | None, values: list[str] | None, assignments: list[str] | None) -> dict[str, Any]:
    from deployments.runs.submit import gather_parameters

    return gather_parameters(file, [*(values or []), *(assignments or [])])


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command(cls=FlowCommand)(sweep)
