"""The commands that run a person's own program, or an interactive session, on a slot."""

import os
import shutil
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from deployments.cli.runs import Priority, WhenBusy, slot_wishes
from gpu_pools.placement.queues import parse_duration
from tasks.base.errors import ConfigError

if TYPE_CHECKING:
    from tasks.programs.params import ProgramParams


def execute(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGUMENT]...", help="python my_train.py --lr 0.1")],
    device: Annotated[str, typer.Option(help="cpu, cuda (the least loaded GPU), cuda:0 ...")] = "cuda",
    n_devices: Annotated[int, typer.Option("--devices", "-n", min=1, help="GPUs that it needs at once")] = 1,
    when_busy: Annotated[WhenBusy, typer.Option(help="Wait for the device, or be refused at once")] = WhenBusy.wait,
    priority: Priority = None,
    name: Annotated[str | None, typer.Option(help="Of the run in Prefect and MLflow; else the script's")] = None,
) -> None:
    """Run a command of your own here, as you, on a slot: its GPUs alone are visible, MLflow's autologging in its run.

    The exit code is the command's; 130 after Ctrl-C.
    """
    os.environ |= slot_wishes(when_busy.value, priority)
    from tasks.programs.params import ProgramParams, name_of

    program = ProgramParams(device=device, n_devices=n_devices, **_of_caller(context, words))
    _run_here(program, name or name_of(program.words))


def shell(
    context: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND [ARGUMENT]...]", help="Instead of $SHELL: jupyter lab")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda (the least loaded GPU), cuda:0 ...")] = "cuda",
    lasts: Annotated[str, typer.Option("--for", help="Ends after 90s, 30m, 2h ...; none: never")] = "none",
    idle: Annotated[str, typer.Option(help="Ends after so long without use of CPU, GPU and keyboard; none: never")] = (
        "30m"
    ),
    when_busy: Annotated[WhenBusy, typer.Option(help="Wait for the device, or be refused at once")] = WhenBusy.wait,
    priority: Priority = None,
    name: Annotated[str | None, typer.Option(help="Of the run in Prefect; else the program's")] = None,
) -> None:
    """Hold a slot for a shell, Jupyter or another program that you sit at, until it ends, idles or its time is over.

    YARD_SLOT is the slot (cuda:1); its GPU alone is visible.
    """
    os.environ |= slot_wishes(when_busy.value, priority)
    from tasks.programs.params import SessionParams, name_of

    caller: dict[str, str] = context.obj
    program = SessionParams(
        device=device,
        lasts=_seconds(lasts),
        idle=_seconds(idle),
        is_shell=not words,
        **_of_caller(context, words or [caller.get("SHELL") or "/bin/sh"]),
    )
    _run_here(program, name or name_of(program.words))


def _seconds(text: str) -> float | None:
    return None if text == "none" else parse_duration(text)


def _of_caller(context: typer.Context, words: list[str]) -> dict[str, Any]:
    """Return the parameters of a command of who calls: words, folder and environment.

    Raises:
        ConfigError: there is no such program.
    """
    caller: dict[str, str] = context.obj
    if shutil.which(words[0], path=caller.get("PATH")) is None:
        raise ConfigError(f"found no command {words[0]!r} in PATH, need a program that can be run")
    from tasks.tracking.provenance import command_line

    return {"command": command_line(words), "folder": os.getcwd(), "words": tuple(words), "environment": caller}


def _run_here(program: "ProgramParams", name: str) -> NoReturn:
    from deployments.runs.local import exec_here

    try:
        code = exec_here(program, name)
    except KeyboardInterrupt:
        from gpu_pools.stopping import asked

        raise typer.Exit(128 + (asked() or 2)) from None
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    app.command(name="exec")(execute)
    app.command()(shell)
