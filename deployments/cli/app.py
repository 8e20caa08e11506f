"""The command `yard`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli import chat, data_sets, gpu, keeping, programs, runs, schedules, stack, sync, top, upload
from deployments.cli.sharing import audit, auth, bookings, changes, history, limits, migrate, notices, shares
from deployments.cli.terminal.flow_help import FlowArgument, FlowCommand, complete_parameter
from deployments.cli.terminal.run_names import complete_run
from deployments.machine.environment import prepare_environment, version
from deployments.sweeps import command as sweeps
from gpu_pools.placement.queues import parse_duration
from tasks.base.errors import ConfigError, TrainyardError

TimeLimit = Annotated[str | None, typer.Option("--time-limit", help="90s, 30m, 5h or 2d from now on; then it ends")]

app = typer.Typer(
    help="Trainyard: vision training on shared GPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"yard {version()}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    _: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    context.obj = dict(os.environ)  # as the caller has it
    prepare_environment()


@app.command(cls=FlowCommand)
def run(
    flow: FlowArgument,
    data: Annotated[Path | None, typer.Option(help="Folder of classes or of photographs; a video")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="YAML with the parameters; RFUAV's keys work")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override one value, e.g. train.num_epochs=3", autocompletion=complete_parameter),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda (the least loaded GPU), cuda:0 ...")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run in Prefect and MLflow")] = None,
    when_busy: Annotated[
        str, typer.Option(help="Where the device is taken: wait, or refuse, with who has it", metavar="wait|refuse")
    ] = "wait",
    priority: runs.Priority = None,
    time_limit: TimeLimit = None,
) -> None:
    """Run a flow here and now, to its end, without any server."""
    if when_busy not in {"wait", "refuse"}:
        raise ConfigError(f"found --when-busy {when_busy!r}, need wait or refuse")
    os.environ |= runs.slot_wishes(when_busy, priority)
    from deployments.data_sets.named import brought
    from deployments.stack.stack import mlflow_url
    from tasks.base.config import override, read_parameters
    from tasks.store.places import is_data_set, needs

    parameters: dict[str, Any] = read_parameters(file) if file else {}
    if data is not None:
        parameters["data"] = str(data if is_data_set(data) else data.absolute())
    override(parameters, assignments or [])
    if needs(parameters).data:
        parameters = brought(parameters, mlflow_url())
    from deployments.runs.local import run_here
    from deployments.runs.run_summary import print_outcome

    limit_s = None if time_limit is None else parse_duration(time_limit)
    print_outcome(run_here(flow, parameters, device=device, run_name=name, limit_s=limit_s))


@app.command()
def resume(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help=f"{runs.RUN_HELP}; the newest without one", autocompletion=complete_run),
    ] = None,
    time_limit: TimeLimit = None,
    devices: Annotated[
        int | None, typer.Option(min=1, max=64, help="GPUs that it computes on from now on (train.n_devices)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="One of somebody else in a queue, too; it is noted")] = False,
) -> None:
    """Go on with a run that was cut off or out of time, from its last checkpoint, in the same Prefect and MLflow run.

    A run from a queue goes back there, one of `yard run` goes on here and now.
    """
    from deployments.runs.resume import resume as go_on
    from deployments.runs.run_summary import print_outcome

    done = go_on(run, time_limit, n_devices=devices, force=force)
    typer.echo(done) if isinstance(done, str) else print_outcome(done)


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="Folder of a vision-language model: config.json, *.safetensors")],
    device: Annotated[str, typer.Option(help="cpu, cuda (the least loaded GPU), cuda:0 ...")] = "cuda",
    lasts: Annotated[str, typer.Option("--for", help="Ends after 90s, 30m, 4h ...; none: never")] = "none",
    idle: Annotated[str, typer.Option(help="Ends after so long without a request; none: never")] = "30m",
    engine: Annotated[
        str, typer.Option(help="transformers, vllm or the path of one, or a command with {model}, {host} and {port}")
    ] = "transformers",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of this machine; 0: any that is free")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="Requests at once; 0: by the GPU's memory")] = 0,
    token_file: Annotated[
        Path | None, typer.Option(help="A file of mode 0600; requests must bear what is in it")
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any other value, e.g. gate.wait_s=10")] = None,
) -> None:
    """Serve a vision-language model here and now, by OpenAI's chat API, until Ctrl-C or its time is over."""
    from tasks.base.config import override

    parameters: dict[str, Any] = {
        "model": str(model.absolute()),
        "serve": {"lasts": lasts, "idle": idle, "engine": engine},
        "gate": {
            "port": port,
            "limit": limit,
            "token_file": None if token_file is None else str(token_file.absolute()),
        },
    }
    override(parameters, assignments or [])
    from deployments.runs.local import run_here

    run_here("serve", parameters, device=device)


@app.command()
def demo(
    part: Annotated[
        str | None, typer.Argument(metavar="[signals|scene|recognition|ask]", help="Only this part")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data goes; TRAINYARD_HOME/demo without it")] = None,
) -> None:
    """Train on radio signals made on the spot, then make a splat of a video made on the spot (6 minutes on 2 cores).

    `yard demo recognition` learns ten parts from meshes made on the spot (15 minutes). `yard demo ask` serves a tiny
    vision-language model and asks it about two pictures (under a minute).
    """
    from deployments.runs.demo import Part, run_demo

    if part not in {None, *Part}:
        raise ConfigError(f"found the part {part!r}, need {' or '.join(Part)}")
    run_demo(folder, Part(part) if part else None)


stack.register(app)
runs.register(app)
sweeps.register(app)
changes.register(app)
limits.register(app)
gpu.register(app)
top.register(app)
chat.register(app)
keeping.register(app)
schedules.register(app)
sync.register(app)
data_sets.register(app)
upload.register(app)
programs.register(app)
bookings.register(app)
audit.register(app)
auth.register(app)
migrate.register(app)
history.register(app)
shares.register(app)
notices.register(app)


def main() -> None:
    """Run the command; an error meant for the user is printed as what it says, without a traceback."""
    try:
        app()
    except TrainyardError as exc:
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(str(exc), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped; `yard resume` goes on from the last checkpoint", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
