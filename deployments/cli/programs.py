"""The command that runs a person's own program on a slot."""

import os
import shutil
from typing import Annotated

import typer

from deployments.cli.runs import Priority, WhenBusy, slot_wishes
from tasks.base.errors import ConfigError


def execute(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGUMENT]...", help="python my_train.py --lr 0.1")],
    device: Annotated[str, typer.Option(help="cpu, cuda (the least loaded GPU), cuda:0 ...")] = "cuda",
    when_busy: Annotated[WhenBusy, typer.Option(help="Wait for the device, or be refused at once")] = WhenBusy.wait,
    priority: Priority = None,
    name: Annotated[str | None, typer.Option(help="Of the run in Prefect and MLflow; else the script's")] = None,
) -> None:
    """Run a command of your own here, as you, on a slot: its GPU alone is visible, MLflow's autologging in its run.

    The exit code is the command's; 130 after Ctrl-C.
    """
    caller: dict[str, str] = context.obj
    if shutil.which(words[0], path=caller.get("PATH")) is None:
        raise ConfigError(f"found no command {words[0]!r} in PATH, need a program that can be run")
    os.environ |= slot_wishes(when_busy.value, priority)
    from tasks.programs.params import ProgramParams, name_of
    from tasks.tracking.provenance import command_line

    program = ProgramParams(
        command=command_line(words),
        folder=os.getcwd(),
        device=device,
        words=tuple(words),
        environment=caller,
    )
    from deployments.runs.local import exec_here

    try:
        code = exec_here(program, name or name_of(program.words))
    except KeyboardInterrupt:
        from gpu_pools.stopping import asked

        raise typer.Exit(128 + (asked() or 2)) from None
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command(name="exec")(execute)
