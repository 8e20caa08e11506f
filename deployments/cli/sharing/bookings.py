"""The commands `yard book` and `yard bookings`: a GPU kept for somebody for a while."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.base.errors import ConfigError

if TYPE_CHECKING:
    from deployments.sharing.bookings import BookingRow

Start = Annotated[str | None, typer.Option("--from", help='"2026-12-01 14:00", 14:00 (the next one), or now')]
Lasts = Annotated[str | None, typer.Option("--for", help="2h, 90m, 1d; 31d at most")]
Repeats = Annotated[str | None, typer.Option("--every", metavar="day|week", help="Again at the same time of day")]
Zone = Annotated[str | None, typer.Option("--timezone", help="Europe/Berlin; this host's without it")]
Force = Annotated[bool, typer.Option("--force", help="Somebody else's, too")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `yard bookings` shows it")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document, see docs/sharing.md")]


def book(
    device: Annotated[str, typer.Argument(help="cuda:1, or boxb/cuda:1: with all of its slots")],
    start: Start = None,
    lasts: Lasts = None,
    every: Repeats = None,
    timezone: Zone = None,
    owner: Annotated[str | None, typer.Option(help="anna (of whatever host), anna@boxa; your name without it")] = None,
) -> None:
    """Keep a GPU for a while: only your runs start on it then, and before it only what ends in time."""
    from deployments.sharing import bookings

    if start is None or lasts is None:
        raise ConfigError('found no time, need both: --from "2026-12-01 14:00" --for 2h')
    asked = bookings.Asked(start, lasts, every, timezone)
    with bookings.yard_api() as api:
        typer.echo(bookings.said(bookings.book(api, device, owner, asked, time.time())))


def list_all(context: typer.Context, as_json: Json = False) -> None:
    """List the bookings of all GPUs, the next first; cancel and change them."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.sharing import bookings

    with bookings.yard_api() as api:
        rows = bookings.rows(api, time.time())
    print_json([asdict(row) for row in rows]) if as_json else _show(rows)


def cancel(booking: Id, force: Force = False) -> None:
    """Give a GPU back; of a booking that comes again all times to come."""
    from deployments.sharing import bookings

    with bookings.yard_api() as api:
        found = bookings.cancel(api, booking, time.time(), force=force)
    typer.echo(f"booking {found.id} of {found.label} is cancelled")


def change(
    booking: Id,
    start: Start = None,
    lasts: Lasts = None,
    every: Annotated[str | None, typer.Option("--every", metavar="day|week|none")] = None,
    timezone: Zone = None,
    force: Force = False,
) -> None:
    """Give a booking another time, length or rhythm; what is not named stays."""
    from deployments.sharing import bookings

    if start is None and lasts is None and every is None:
        raise ConfigError("found nothing to change, need --from, --for or --every")
    if timezone is not None and start is None:
        raise ConfigError("found --timezone without --from, need the time that is meant in it")
    asked = bookings.Asked(start, lasts, every, timezone)
    with bookings.yard_api() as api:
        typer.echo(bookings.said(bookings.change(api, booking, asked, time.time(), force=force)))


def _show(rows: "list[BookingRow]") -> None:
    from rich.table import Table

    from deployments.cli.terminal.tables import console

    if not rows:
        typer.echo("nothing is booked")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("booking", "device", "owner", "from", "to", "zone", "every", ""):
        table.add_column(name, no_wrap=name in {"booking", "from", "to"}, overflow="fold")
    for row in rows:
        begin, end = row.begin[:16].replace("T", " "), row.end[:16].replace("T", " ")
        until = end[11:] if begin[:10] == end[:10] else end
        table.add_row(row.id, row.device, row.owner, begin, until, row.zone, row.every or "", _state(row))
    console().print(table)


def _state(row: "BookingRow") -> str:
    if not row.now:
        return ""
    return f"now, waits for {' and '.join(row.held_up_by)}" if row.held_up_by else "now"


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    app.command()(book)
    bookings = typer.Typer(invoke_without_command=True)
    bookings.callback()(list_all)
    bookings.command()(cancel)
    bookings.command()(change)
    app.add_typer(bookings, name="bookings")
