"""The command `yard shares`: who had how much of the GPUs lately, and what is left of the quotas."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gpu_pools.sharing.standing import Standing


def shares(
    owner: Annotated[str | None, typer.Option(help="Of this user alone, and of the groups of theirs")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, see docs/sharing.md")] = False,
) -> None:
    """Say who had how much of the GPUs lately, who is next among equal priorities, and what is left of quotas."""
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.sharing.history import read_standings

    rows = read_standings(owner)
    if as_json:
        print_json([asdict(row) for row in rows])
    elif rows:
        _show(rows)
    else:
        typer.echo("no run had a GPU in the last five weeks")


def _show(rows: "list[Standing]") -> None:
    from rich.table import Table

    from deployments.cli.terminal.tables import console

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("who", overflow="fold")
    for name in ("share", "GPU h lately", "GPU h in 7 days", "GPU slots"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("quota left", overflow="fold")
    for row in rows:
        figures = (f"{row.share:.0%}", f"{row.lately_h:.1f}", f"{row.week_h:.1f}", str(row.slots))
        table.add_row(row.who, *figures, _left(row))
    console().print(table)


def _left(row: "Standing") -> str:
    from gpu_pools.placement.wording import clock_text

    parts = []
    if row.slots_quota is not None:
        parts.append(f"{max(0, row.slots_quota - row.slots)} of {row.slots_quota} slots")
    if row.hours_quota is not None:
        parts.append(f"{row.hours_left:.1f} of {row.hours_quota:g} GPU h")
    if row.more_from is not None:
        parts.append(f"more from {clock_text(row.more_from, time.time())}")
    return ", ".join(parts)


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(shares)
