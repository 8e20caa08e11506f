"""Commands that change runs: `yard cancel`, `delete`, `priority`, `move`; each is allowed first, and written down."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from deployments.cli.runs import RunArguments
from deployments.cli.sharing.choice import Choice, with_choice
from tasks.base.errors import ConfigError


@with_choice
def cancel(
    runs: RunArguments = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="All that wait")] = False,
    running: Annotated[bool, typer.Option("--running", help="All that run")] = False,
    scheduled: Annotated[bool, typer.Option("--scheduled", help="All of later, by a schedule or --at")] = False,
    *,
    choice: Choice,
) -> None:
    """Stop runs, the parts of a pipeline with it; what they saved stays. Without --scheduled only what is due."""
    from deployments.api import connect
    from deployments.runs.find import ENDED, RUNNING, WAITING
    from deployments.runs.run_actions import cancel, living, on_each
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    every = not (waiting or running or scheduled)
    choice.check(runs, also=not every)
    types = (*(WAITING if waiting or every else ()), *(RUNNING if running or every else ()))
    with connect() as api:
        acts = Acts.of(api, force=choice.force)
        if runs is None:
            found = living(api, types=types, scheduled=scheduled, flow=choice.flow, owner=choice.owner)
            runs = choice.agreed(acts, "cancel", found)

        def change(run: dict[str, Any]) -> None:
            if run["state_type"] in ENDED:
                typer.echo(cancel(api, run))  # which says so; nothing is done
                return
            with acts.act("cancel", run_target(run)):
                typer.echo(cancel(api, run))

        on_each(api, runs, change)


@with_choice
def delete(
    runs: RunArguments = None,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Its MLflow run, too")] = False,
    *,
    choice: Choice,
) -> None:
    """Remove runs that have ended: their records and their files on this host."""
    from deployments.api import connect
    from deployments.runs.find import find_run
    from deployments.runs.run_actions import check_ended, delete, ended, on_each
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    choice.check(runs)
    what = "their records, their files" + (" and their MLflow runs" if artifacts else "")
    with connect() as api:
        acts = Acts.of(api, force=choice.force)
        if runs is None:
            runs = choice.agreed(acts, "delete", ended(api, flow=choice.flow, owner=choice.owner), what)
        elif not choice.yes:
            found = [find_run(api, name, ended=True) for name in runs]
            for run in found:
                check_ended(api, run)
            choice.ask(f"remove {_named(found)}: {what}?")
            runs = [run["id"] for run in found]

        def change(run: dict[str, Any]) -> None:
            with acts.act("delete", run_target(run), "with its MLflow run" if artifacts else ""):
                for line in delete(api, run, artifacts=artifacts):
                    typer.echo(f"removed {line}")

        on_each(api, runs, change, ended=True)


@with_choice
def priority(
    words: Annotated[list[str], typer.Argument(metavar="[RUN]... NUMBER", help="1 is first, 10 last")],
    *,
    choice: Choice,
) -> None:
    """Move runs that wait, or the waiting part of a pipeline, ahead or back in their queues."""
    from deployments.api import connect
    from deployments.runs.run_actions import on_each, set_priority, with_waiting
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    *names, last = words
    if not last.isdecimal() or not 1 <= int(last) <= 10:
        raise ConfigError(f"found the priority {last!r}, need a number from 1 (first) to 10 behind the runs")
    choice.check(names)
    with connect() as api:
        acts = Acts.of(api, force=choice.force)
        if not names:
            found = with_waiting(api, flow=choice.flow, owner=choice.owner)
            names = choice.agreed(acts, f"give priority {last} to", found)

        def change(run: dict[str, Any]) -> None:
            with acts.act("prioritise", run_target(run), f"priority {last}"):
                for moved in set_priority(api, run, int(last)):
                    typer.echo(f"run {moved['id']} ({moved['name']}) has priority {last} now")

        on_each(api, names, change)


@with_choice
def move(
    runs: RunArguments = None,
    device: Annotated[str, typer.Option(help="cuda (the least loaded GPU), cuda:1, cpu, HOST/cuda:1")] = "",
    *,
    choice: Choice,
) -> None:
    """Let runs that wait, or the waiting part of a pipeline, wait for another device; they keep their place."""
    from deployments.api import connect
    from deployments.lifecycle.moves import move
    from deployments.runs.run_actions import on_each, with_waiting
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    if not device:
        raise ConfigError("found no device to move to, need --device")
    choice.check(runs)
    with connect() as api:
        acts = Acts.of(api, force=choice.force)
        if runs is None:
            found = with_waiting(api, flow=choice.flow, owner=choice.owner)
            runs = choice.agreed(acts, "move", found, f"to {device}")

        def change(run: dict[str, Any]) -> None:
            with acts.act("move", run_target(run), f"to {device}"):
                for moved in move(api, run, device):
                    typer.echo(f"run {moved['id']} ({moved['name']}) waits for {device} now")

        on_each(api, runs, change)


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    for command in (cancel, delete, priority, move):
        app.command()(command)


def _named(runs: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"run {run['id']} ({run['name']})" for run in runs)
