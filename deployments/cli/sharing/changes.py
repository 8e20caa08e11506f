"""Commands that change runs: `yard cancel`, `delete`, `priority`, `move`; each is allowed first, and written down."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.runs import RunArguments
from tasks.base.errors import ConfigError

if TYPE_CHECKING:
    from deployments.sharing.acts import Acts

Force = Annotated[bool, typer.Option("--force", help="Of somebody else, too; it is noted")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Without a question")]
Everything = Annotated[bool, typer.Option("--all", help="All that the other options leave")]
Waiting = Annotated[bool, typer.Option("--waiting", help="All that wait")]
Running = Annotated[bool, typer.Option("--running", help="All that run")]
Scheduled = Annotated[bool, typer.Option("--scheduled", help="All of later, by a schedule or --at")]
Flow = Annotated[str | None, typer.Option(help="All of this flow")]
Owner = Annotated[str | None, typer.Option(help="All of this user, user@host, or me")]


def cancel(
    runs: RunArguments = None,
    everything: Everything = False,
    waiting: Waiting = False,
    running: Running = False,
    scheduled: Scheduled = False,
    flow: Flow = None,
    owner: Owner = None,
    force: Force = False,
    yes: Yes = False,
) -> None:
    """Stop runs, the parts of a pipeline with it; what they saved stays. Without --scheduled only what is due."""
    from deployments.api import connect
    from deployments.runs.find import ENDED, RUNNING, WAITING
    from deployments.runs.run_actions import cancel, living, on_each
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    every = not (waiting or running or scheduled)
    check_choice(runs, everything or not every or flow or owner)
    types = (*(WAITING if waiting or every else ()), *(RUNNING if running or every else ()))
    with connect() as api:
        acts = Acts.of(api, force=force)
        if runs is None:
            found = living(api, types=types, scheduled=scheduled, flow=flow, owner=owner)
            runs = agreed(acts, "cancel", found, yes)

        def change(run: dict[str, Any]) -> None:
            if run["state_type"] in ENDED:
                typer.echo(cancel(api, run))  # which says so; nothing is done
                return
            with acts.act("cancel", run_target(run)):
                typer.echo(cancel(api, run))

        on_each(api, runs, change)


def delete(
    runs: RunArguments = None,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Its MLflow run, too")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All that have ended and the other options leave")] = False,
    flow: Flow = None,
    owner: Owner = None,
    force: Force = False,
    yes: Yes = False,
) -> None:
    """Remove runs that have ended: their records and their files on this host."""
    from deployments.api import connect
    from deployments.runs.find import find_run
    from deployments.runs.run_actions import check_ended, delete, ended, on_each
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    check_choice(runs, everything or flow or owner)
    what = "their records, their files" + (" and their MLflow runs" if artifacts else "")
    with connect() as api:
        acts = Acts.of(api, force=force)
        if runs is None:
            runs = agreed(acts, "delete", ended(api, flow=flow, owner=owner), yes, what)
        elif not yes:
            found = [find_run(api, name, ended=True) for name in runs]
            for run in found:
                check_ended(api, run)
            _ask(f"remove {_named(found)}: {what}?")
            runs = [run["id"] for run in found]

        def change(run: dict[str, Any]) -> None:
            with acts.act("delete", run_target(run), "with its MLflow run" if artifacts else ""):
                for line in delete(api, run, artifacts=artifacts):
                    typer.echo(f"removed {line}")

        on_each(api, runs, change, ended=True)


def priority(
    words: Annotated[list[str], typer.Argument(metavar="[RUN]... NUMBER", help="1 is first, 10 last")],
    everything: Everything = False,
    flow: Flow = None,
    owner: Owner = None,
    force: Force = False,
    yes: Yes = False,
) -> None:
    """Move runs that wait, or the waiting part of a pipeline, ahead or back in their queues."""
    from deployments.api import connect
    from deployments.runs.run_actions import on_each, set_priority, with_waiting
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    *names, last = words
    if not last.isdecimal() or not 1 <= int(last) <= 10:
        raise ConfigError(f"found the priority {last!r}, need a number from 1 (first) to 10 behind the runs")
    check_choice(names, everything or flow or owner)
    with connect() as api:
        acts = Acts.of(api, force=force)
        if not names:
            found = with_waiting(api, flow=flow, owner=owner)
            names = agreed(acts, f"give priority {last} to", found, yes)

        def change(run: dict[str, Any]) -> None:
            with acts.act("prioritise", run_target(run), f"priority {last}"):
                for moved in set_priority(api, run, int(last)):
                    typer.echo(f"run {moved['id']} ({moved['name']}) has priority {last} now")

        on_each(api, names, change)


def move(
    runs: RunArguments = None,
    device: Annotated[str, typer.Option(help="cuda (the least loaded GPU), cuda:1, cpu, HOST/cuda:1")] = "",
    everything: Everything = False,
    flow: Flow = None,
    owner: Owner = None,
    force: Force = False,
    yes: Yes = False,
) -> None:
    """Let runs that wait, or the waiting part of a pipeline, wait for another device; they keep their place."""
    from deployments.api import connect
    from deployments.lifecycle.moves import move
    from deployments.runs.run_actions import on_each, with_waiting
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import run_target

    if not device:
        raise ConfigError("found no device to move to, need --device")
    check_choice(runs, everything or flow or owner)
    with connect() as api:
        acts = Acts.of(api, force=force)
        if runs is None:
            found = with_waiting(api, flow=flow, owner=owner)
            runs = agreed(acts, "move", found, yes, f"to {device}")

        def change(run: dict[str, Any]) -> None:
            with acts.act("move", run_target(run), f"to {device}"):
                for moved in move(api, run, device):
                    typer.echo(f"run {moved['id']} ({moved['name']}) waits for {device} now")

        on_each(api, runs, change)


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    for command in (cancel, delete, priority, move):
        app.command()(command)


def check_choice(runs: Sequence[str] | None, chosen: object) -> None:
    """Hold the runs that were named against the options that choose some.

    Raises:
        ConfigError: both were given, or neither.
    """
    if bool(runs) == bool(chosen):
        what = "runs and options" if runs else "nothing"
        raise ConfigError(f"found {what}, need runs, or options that say which")


def agreed(acts: "Acts", verb: str, found: Sequence[dict[str, Any]], yes: bool, what: str = "") -> list[str]:
    """List runs, and return the ids of those that the caller may change and says yes to; the others are named."""
    from deployments.runs.find import is_later
    from deployments.sharing.permissions import run_target

    mine = [run for run in found if not acts.fault(verb, run_target(run))]
    for run in found:
        state = "later" if is_later(run) else run["state_name"]
        left = "" if run in mine else f"  left: of {run_target(run).owner}"
        typer.echo(f"{run['id'][:8]}  {state:<10}  {run['name']}{left}")
    if not found:
        typer.echo("no such runs")
    elif not mine:
        raise ConfigError(f"none of them is yours to {verb}: --force does it all the same, and is noted")
    elif not yes:
        _ask(f"{verb} {len(mine)} run{'s' * (len(mine) > 1)}{f': {what}' if what else ''}?")
    return [run["id"] for run in mine]


def _ask(question: str) -> None:
    """Ask in the terminal; end the command at a no.

    Raises:
        ConfigError: there is no terminal to ask in.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"found no terminal to ask in ({question}), need --yes")
    typer.confirm(question, abort=True)


def _named(runs: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"run {run['id']} ({run['name']})" for run in runs)
