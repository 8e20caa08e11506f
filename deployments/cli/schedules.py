"""The command `yard schedule`: runs that start by themselves, at set times."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.terminal.flow_help import FlowCommand, MaybeFlowArgument, ValuesArgument
from tasks.base.errors import ConfigError

if TYPE_CHECKING:
    from deployments.lifecycle.schedules import ScheduleRow

_COLUMNS = ("id", "flow", "when", "zone", "", "next", "parameters")


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command(cls=FlowCommand)(schedule)


def schedule(
    flow: MaybeFlowArgument = None,
    values: ValuesArgument = None,
    cron: Annotated[str | None, typer.Option(help='"0 2 * * *": every night at two')] = None,
    every: Annotated[str | None, typer.Option(help="30m, 1h, 7d: from now on")] = None,
    timezone: Annotated[str | None, typer.Option(help="Europe/Berlin; this host's without it")] = None,
    pause: Annotated[str | None, typer.Option(metavar="ID", help="Switch one off")] = None,
    resume: Annotated[str | None, typer.Option(metavar="ID", help="Switch it on again")] = None,
    remove: Annotated[str | None, typer.Option(metavar="ID", help="Remove one that was made here")] = None,
    force: Annotated[bool, typer.Option("--force", help="One of somebody else, or of the yard; it is noted")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, see docs/services.md")] = False,
) -> None:
    """Start a flow at set times; list what is scheduled, without a flow; switch it off and on, remove it."""
    from deployments.api import connect
    from deployments.lifecycle import schedules
    from deployments.runs.submit import gather_parameters
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import Target
    from gpu_pools.names import asker

    changes = {"--pause": pause, "--resume": resume, "--remove": remove}
    chosen = [name for name, value in changes.items() if value is not None]
    if len(chosen) + (flow is not None) > 1 or (flow is None and (cron or every or timezone)):
        raise ConfigError("found several things to do, or half of one: need FLOW with --cron or --every, or one ID")
    with connect() as api:
        if flow is not None:
            when = schedules.rhythm(cron, every, timezone)
            with Acts.of(api).act("schedule", Target("schedule", "", flow, asker()), cron or f"every {every}"):
                rows = [schedules.add(api, flow, gather_parameters(None, values or []), when)]
        elif chosen:
            wanted = str(pause or resume or remove)
            verb = chosen[0].removeprefix("--")
            with Acts.of(api, force=force).act(verb, schedules.schedule_target(api, wanted)):
                said = schedules.remove(api, wanted) if remove else schedules.switch(api, wanted, resume is not None)
            typer.echo(said)
            return
        else:
            rows = schedules.list_schedules(api)
    _show(rows, as_json)


def _assignments(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield parameters as they are typed: train.num_epochs=3."""
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={value}"


def _show(rows: "list[ScheduleRow]", as_json: bool) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from deployments.cli.terminal.tables import clock, console, print_json

    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(*_COLUMNS, box=None)
    for row in rows:
        given = " ".join(_assignments(row.parameters))
        on = "on" if row.active else "off"
        table.add_row(row.id, row.flow, row.when, row.timezone, on, clock(row.next), given)
    if rows:
        console().print(table)
    else:
        typer.echo("nothing is scheduled")
