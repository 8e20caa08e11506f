"""The commands that say who had what: `yard history` and `yard report`."""

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from tasks.accounts.account import Account, Sum

_NOBODY_WAITS_S = 1.0


class Format(StrEnum):
    """What the history is printed as."""

    table = "table"
    csv = "csv"
    json = "json"


class By(StrEnum):
    """What sums are made by."""

    owner = "owner"
    flow = "flow"
    device = "device"


def history(
    owner: Annotated[str | None, typer.Option(help="Of this user, or user@host")] = None,
    flow: Annotated[str | None, typer.Option(help="Of this flow")] = None,
    device: Annotated[str | None, typer.Option(help="On cuda:1, boxb/cuda:1, cpu, or cuda: any GPU")] = None,
    since: Annotated[str, typer.Option(help="Ended since then: 7d or 12h ago, or a date")] = "7d",
    by: Annotated[By | None, typer.Option(help="Sums by this: owner without it; as CSV the sums alone")] = None,
    shape: Annotated[Format, typer.Option("--format", help="csv for spreadsheets, see docs/sharing.md")] = Format.table,
) -> None:
    """Say who ran what where, how long it waited and ran, its energy and memory, and what came of it; then the sums."""
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.runs.own_records import server_or_records
    from deployments.sharing.history import read_accounts, since_time
    from tasks.accounts.account import chosen, sums
    from tasks.accounts.sheet import as_cells, write_sheet

    start = since_time(since)
    with server_or_records() as api:
        accounts, notes = read_accounts(api, start)
    accounts = chosen(accounts, owner=owner, flow=flow, device=device)
    added = sums(accounts, (by or By.owner).value)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if shape is Format.csv:
        write_sheet(added if by else accounts, sys.stdout)
    elif shape is Format.json:
        print_json({"runs": [as_cells(account) for account in accounts], "sums": [asdict(one) for one in added]})
    elif accounts:
        _print(accounts, added, (by or By.owner).value)
    else:
        typer.echo(f"no run had a device since {since}")


def report(
    folder: Annotated[Path, typer.Argument(help="Made; for report.html, occupation.png, runs.csv, owners.csv")],
    since: Annotated[str, typer.Option(help="7d or 12h ago, or a date")] = "24h",
) -> None:
    """Write who had which device as a page with a picture, and as sheets, as the daily report has it."""
    from deployments.runs.own_records import server_or_records
    from deployments.sharing.history import read_accounts, since_time
    from tasks.accounts.report import PAGE, local_zone, make_report, write_files

    start = since_time(since)
    with server_or_records() as api:
        accounts, notes = read_accounts(api, start)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    made = make_report(accounts, start, time.time(), local_zone())
    write_files(made, folder)
    typer.echo(made.sentence())
    typer.echo(folder / PAGE)


def _print(accounts: "Sequence[Account]", added: "Sequence[Sum]", by: str) -> None:
    from deployments.cli.terminal.tables import console
    from tasks.accounts.account import total

    out = console()
    out.print(_runs_table(accounts))
    out.print()
    out.print(_sums_table([*added, total(accounts)] if len(added) > 1 else added, by))


def _runs_table(accounts: "Sequence[Account]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from deployments.cli.terminal.tables import duration
    from gpu_pools.names import short_id

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "name", "flow", "owner", "device", "began"):
        table.add_column(name, no_wrap=name in {"run", "device", "began"}, overflow="fold")
    for name in ("waited", "ran", "GPU h", "Wh", "peak MiB"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("state")
    table.add_column("result", overflow="fold")
    for one in accounts:
        table.add_row(
            *(short_id(one.run), one.name, one.flow, one.owner, one.device, _clock(one.began)),
            *(duration(one.waited_s) if one.waited_s >= _NOBODY_WAITS_S else "", duration(one.ran_s)),
            *(_number(one.gpu_hours or None, 2), _number(one.energy_wh, 1), _number(one.peak_memory_mib, 0)),
            *(Text(one.state, style="red" if one.failed else ""), _result(one)),
        )
    return table


def _sums_table(added: "Sequence[Sum]", by: str) -> "Table":
    from rich.table import Table

    from deployments.cli.terminal.tables import duration

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(by, overflow="fold")
    for name in ("runs", "hours", "GPU hours", "Wh", "median wait", "longest wait", "failed"):
        table.add_column(name, no_wrap=True, justify="right")
    for one in added:
        energy = _number(one.energy_wh, 1) + (f" ({one.energy_unknown} unknown)" if one.energy_unknown else "")
        table.add_row(
            *(one.name, str(one.runs), _number(one.hours, 2), _number(one.gpu_hours, 2), energy),
            *(duration(one.waited_median_s), duration(one.waited_longest_s), str(one.failed)),
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _result(account: "Account") -> str:
    return "" if account.value is None else f"{account.metric} {account.value:.4g}"


def _clock(seconds: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    for command in (history, report):
        app.command()(command)
