"""Commands that submit, show and change runs."""

import os
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.terminal.flow_help import FlowArgument, FlowCommand, ValuesArgument
from deployments.cli.terminal.run_names import complete_run
from tasks.base.errors import ConfigError
from tasks.base.workspace import home

if TYPE_CHECKING:
    from deployments.api import Api
    from deployments.runs.find import RunRow


class WhenBusy(StrEnum):
    """What becomes of a run whose device is taken."""

    wait = "wait"
    refuse = "refuse"


class Engine(StrEnum):
    """Whose GPUs a run is to have, where they are not the yard's own workers'."""

    slurm = "slurm"
    kubernetes = "kubernetes"


RUN_HELP = "Its id, the beginning of it, its name, or RUN/FLOW for a stage"
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete_run)]
RunArguments = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Each as elsewhere", autocompletion=complete_run)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document, see docs/services.md")]
Priority = Annotated[int | None, typer.Option(min=1, max=10, help="1 (first) to 10; training 5, inference 3")]


def slot_wishes(when_busy: str, priority: int | None) -> dict[str, str]:
    """Return the variables by which a run in this process asks for its slot (`gpu_pools.slots.local_slot`)."""
    return {"TRAINYARD_WHEN_BUSY": when_busy, "TRAINYARD_PRIORITY": str(priority or "")}


def submit(
    flow: FlowArgument,
    values: ValuesArgument = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="YAML with the parameters; RFUAV's keys work")
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="As NAME=VALUE above")] = None,
    device: Annotated[str | None, typer.Option(help="cuda (any GPU), cuda:1, cpu, boxb/cuda:1")] = None,
    priority: Priority = None,
    when_busy: Annotated[WhenBusy | None, typer.Option(help="Wait for the device, or be refused at once")] = None,
    time_limit: Annotated[str | None, typer.Option(help="90s, 30m, 5h or 2d; then the run ends")] = None,
    at: Annotated[str | None, typer.Option(help='Not before: "2026-11-24 08:00", this host\'s time')] = None,
    name: Annotated[str | None, typer.Option(help="Of the run in Prefect and MLflow")] = None,
    owner: Annotated[str | None, typer.Option(help="user@host; you without it")] = None,
    on: Annotated[Engine | None, typer.Option(help="Hand it to this engine, which decides when and where")] = None,
    job: Annotated[
        list[str] | None, typer.Option(help="cpus=8, memory=32G, partition=NAME ...: what its job there asks for")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run; its result is the exit code")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a run into the queue of its device."""
    from deployments.api import connect
    from deployments.runs import submit as orders

    if watch and as_json:
        raise ConfigError("found --watch and --json, need one of them")
    wishes = orders.Wishes(
        *(device, priority, when_busy.value if when_busy else None, time_limit, name, owner, _time(at)),
        on=on.value if on else None,
        job=_pairs(job or []),
    )
    parameters = orders.gather_parameters(file, [*(values or []), *(assignments or [])])
    with connect() as api:
        run = orders.submit(api, orders.prepare(api, flow, parameters, wishes))
        if when_busy is WhenBusy.refuse and at is None:
            run = orders.await_decision(api, run)
        _tell_submitted(api, run, as_json)
        if watch:
            _watch(api, run["id"])


def _pairs(assignments: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE as a dictionary."""
    found = dict(assignment.partition("=")[::2] for assignment in assignments)
    if odd := [assignment for assignment in assignments if "=" not in assignment]:
        raise ConfigError(f"found --job {odd[0]}, need NAME=VALUE, such as cpus=8")
    return found


def runs(
    waiting: Annotated[bool, typer.Option("--waiting", help="Those that wait, with the reason")] = False,
    running: Annotated[bool, typer.Option("--running", help="Those that run")] = False,
    scheduled: Annotated[bool, typer.Option("--scheduled", help="Those of later, by a schedule or --at")] = False,
    flow: Annotated[str | None, typer.Option(help="Of this flow")] = None,
    owner: Annotated[str | None, typer.Option(help="Of this user, user@host, or me")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List runs: what runs, what waits, what has ended (the newest first), then what is put down for later."""
    from dataclasses import asdict

    from deployments.cli.terminal.tables import console, print_json, runs_table
    from deployments.runs.find import RUNNING, WAITING, list_runs
    from deployments.runs.own_records import only_here, server_or_records

    types = (*(WAITING if waiting else ()), *(RUNNING if running else ()))

    def read(api: "Api") -> list["RunRow"]:
        return list_runs(api, types=types, scheduled=scheduled, flow=flow, owner=owner, limit=limit)

    with server_or_records() as api:
        rows, own = read(api), only_here(api, read, lambda row: row.id)
        known_by = api.known_by
    if as_json:
        print_json([asdict(row) for row in [*rows, *own]])
        return
    if known_by == "host":
        typer.echo(f"no server is up; the records of this host, in {home()}:")
    if rows:
        console().print(runs_table(rows))
        if len(rows) == limit:
            typer.echo(f"these are the first {limit}: --limit shows more, --scheduled those of later")
    else:
        typer.echo("no runs")
    if own:
        typer.echo(f"\nin the records of this host alone, in {home()}; the server does not know them:")
        console().print(runs_table(own))


def show(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show everything about a run."""
    from deployments.cli.terminal.details import read_details
    from deployments.cli.terminal.tables import print_details, print_json
    from deployments.runs.find import children, make_rows
    from deployments.runs.own_records import found_anywhere

    with found_anywhere(run) as (api, found):
        details = read_details(api, found)
        row, *stages = make_rows(api, [found, *children(api, found["id"])])
    if as_json:
        print_json(details)
    else:
        print_details(details, row, stages)


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Until the run ends")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the log of a run and its parts, in the order of time."""
    from deployments.cli.terminal.tables import log_line, print_json
    from deployments.runs import watch
    from deployments.runs.find import children, make_rows, read_logs
    from deployments.runs.own_records import found_anywhere

    if follow and as_json:
        raise ConfigError("found --follow and --json, need one of them")
    with found_anywhere(run) as (api, found):
        if follow:
            watch.follow(api, found["id"])
            return
        rows = make_rows(api, [found, *children(api, found["id"])])
        lines = read_logs(api, [row.id for row in rows])
        if as_json:
            print_json(list(lines))
            return
        names = {row.id: row.flow for row in rows}
        for line in lines:
            typer.echo(log_line(line, names))


def watch(run: RunArgument) -> None:
    """Follow a run to its end; exit code 0: completed, 1: failed or crashed, 130: cancelled."""
    from deployments.api import connect
    from deployments.runs.find import find_run

    with connect() as api:
        _watch(api, find_run(api, run)["id"])


def download(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(help="Made; missing or empty")],
) -> None:
    """Fetch the files of a run from MLflow: weights, reports, a splat with its viewer."""
    from contextlib import ExitStack

    from deployments.runs.download import download as fetch
    from deployments.runs.download import run_named
    from deployments.runs.own_records import found_anywhere
    from deployments.services.database import database_up
    from deployments.stack.stack import known_stack

    has_server = known_stack() or os.environ.get("PREFECT_API_URL")
    run_id = None if has_server else run_named(run)
    if run_id is None:
        with found_anywhere(run) as (_, found):
            run_id = str(found["id"])
    with ExitStack() as stack:
        if not has_server:  # of `yard run`: MLflow's records are here, too
            stack.enter_context(database_up(make=False))
        files = fetch(run_id, folder.absolute())
    size_mb = sum(path.stat().st_size for path in files) / 1e6
    typer.echo(f"{len(files)} files, {size_mb:.1f} MB, in {folder}")


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    app.command(cls=FlowCommand)(submit)
    for command in (runs, show, logs, watch, download):
        app.command()(command)


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise ConfigError(f'found the time {text!r}, need one such as "2026-11-24 08:00"') from exc
    return at if at.tzinfo else at.astimezone()


def _tell_submitted(api: "Api", run: dict[str, Any], as_json: bool) -> None:
    from deployments.cli.terminal.tables import print_json
    from deployments.runs.find import make_rows
    from deployments.stack.draining import drain_note

    (row,) = make_rows(api, [run])
    note = drain_note(api.call)
    keys = ("id", "short", "name", "flow", "owner", "device", "queue", "priority", "type", "state", "message")
    if as_json:
        print_json({**{key: getattr(row, key) for key in keys}, "url": api.page(row.id), "note": note})
        return
    typer.echo(f"run {row.id} ({row.name}) in queue {row.queue}")
    typer.echo(f"{row.state}: {row.message}" if row.message else row.state)
    typer.echo(api.page(row.id))
    if note:
        typer.echo(f"note: {note}")


def _watch(api: "Api", run_id: str) -> None:
    from deployments.runs import watch as watching

    raise typer.Exit(watching.watch(api, run_id))
