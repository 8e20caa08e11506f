"""The command `yard audit`: who changed what."""

import csv
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.terminal.run_names import complete_run

if TYPE_CHECKING:
    from datetime import datetime

    from deployments.api import Json
    from deployments.sharing.audit import ActRow

_COLUMNS = ("when", "who", "what", "on", "of", "result", "from")


class Format(StrEnum):
    """How acts are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def audit(
    since: Annotated[str, typer.Option(help="So long ago at most: 12h, 7d")] = "7d",
    run: Annotated[str | None, typer.Option(help="On this run: its id or name", autocompletion=complete_run)] = None,
    who: Annotated[str | None, typer.Option(help="By this user, user@host, or me")] = None,
    form: Annotated[Format, typer.Option("--format", help="As what")] = Format.table,
) -> None:
    """List who changed what: runs, limits, schedules; what was done in Prefect itself, as far as it tells."""
    from dataclasses import asdict
    from datetime import UTC, datetime, timedelta

    from deployments.cli.terminal.tables import print_json
    from deployments.sharing.audit import ActRow, chosen, known_acts
    from deployments.sharing.audit_file import read_lines
    from deployments.sharing.permissions import ME
    from gpu_pools.names import asker
    from gpu_pools.placement.queues import parse_duration

    begin = datetime.now(UTC) - timedelta(seconds=parse_duration(since))
    lines, n_torn = read_lines()
    acts = known_acts(lines, _events(begin))
    rows = chosen(acts, since=begin, run=run, who=asker().partition("@")[0] if who == ME else who)
    if n_torn:
        typer.echo(f"{n_torn} line{'s' * (n_torn > 1)} of the audit cannot be read", err=True)
    if form is Format.json:
        print_json([asdict(row) for row in rows])
    elif form is Format.csv:
        table = csv.DictWriter(sys.stdout, ActRow.__slots__)
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    else:
        _show(rows)


def _events(begin: "datetime") -> "list[Json]":
    from deployments.api import connect
    from deployments.services.service import ServiceError
    from deployments.sharing.audit import read_events
    from tasks.base.errors import ConfigError

    try:
        with connect() as api:
            return read_events(api, begin)
    except (ConfigError, ServiceError) as exc:
        typer.echo(f"only what was done from this home is known: {exc}", err=True)
        return []


def _show(rows: "list[ActRow]") -> None:
    from rich.table import Table

    from deployments.cli.terminal.tables import clock, console
    from gpu_pools.names import short_id

    table = Table(*_COLUMNS, box=None)
    for row in rows:
        what = " ".join(filter(None, [row.act, row.details, "--force" if row.force else ""]))
        target = short_id(row.target) if row.kind == "run" else row.target[:8]
        on = f"{row.name} ({target})" if row.target and row.target != row.name else row.name
        result = ": ".join(filter(None, [row.result, row.said]))
        place = " ".join(filter(None, [row.account and f"{row.account}@{row.host}", row.client or row.terminal]))
        table.add_row(clock(row.at), row.who, what, f"{row.kind} {on}", row.owner, result, place)
    if rows:
        console().print(table)
    else:
        typer.echo("nothing is known to have been changed")


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(audit)
