"""The command `yard top`, which shows devices, runs and what waits, again and again."""

import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(top)


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end; so does a pipe")] = False,
) -> None:
    """Show devices, slots, runs and what waits, every 2 seconds until q; also while no server is up."""
    from deployments.watching.follow import follow, show_once

    show_once() if once or not sys.stdout.isatty() else follow()
