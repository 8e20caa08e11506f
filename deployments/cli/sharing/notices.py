"""The commands that show whom the yard tells what, and try it."""

import sys
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document, for programs")]

commands = typer.Typer(help="Show who is told of what happens, and try it.", invoke_without_command=True)


@commands.callback()
def notices(context: typer.Context, as_json: Json = False) -> None:
    """Show who is told of what happens to runs, devices and the disk, and how that went lately."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.notices.notice_report import n_waiting, notice_faults, recipient_rows
    from gpu_pools.sharing.settings import read_settings, settings_path

    rows, faults = recipient_rows(read_settings().notices), notice_faults()
    if as_json:
        print_json({"to": [asdict(row) for row in rows], "waiting": n_waiting(), "faults": faults})
        return
    if not rows:
        typer.echo(f"nobody is told: {settings_path()} has no notices.to, see docs/sharing.md")
    for row in rows:
        whose = f"runs of {', '.join(row.owners)}" if row.owners else "everybody's runs"
        typer.echo(f"{row.name:<10} {row.way} {row.to}; {whose}: {', '.join(row.kinds)}")
        if row.last:
            typer.echo(f"{'':<10} told at {row.at}: {row.answer}")
    if n := n_waiting():
        typer.echo(f"{n} to be sent")
    for fault in faults:
        typer.echo(f"fault: {fault}")


@commands.command("test")
def try_out(
    who: Annotated[str | None, typer.Argument(metavar="[OWNER|RECIPIENT]", help="All of them without one")] = None,
) -> None:
    """Send a message to each recipient now, and say what its server answered; not by way of Prefect."""
    from deployments.notices.delivery import send
    from deployments.notices.messages import SendError
    from deployments.notices.trying import chosen, try_message
    from gpu_pools.sharing.settings import read_settings
    from tasks.base.errors import ConfigError

    settings = read_settings()
    failed = False
    for name in chosen(settings, who):
        try:
            typer.echo(f"{name}: {send(settings.notices, name, try_message(name))}")
        except (SendError, ConfigError) as exc:
            failed = True
            typer.echo(f"{name}: not sent: {exc}")
    sys.exit(1 if failed else 0)


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    app.add_typer(commands, name="notices")
