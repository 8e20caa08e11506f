"""The command `yard sync`, which sends MLflow what runs have kept for it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gpu_pools.process.run_setup import files_of
from tasks.base.workspace import run_path

if TYPE_CHECKING:
    from deployments.runs.sync import Outcome


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(sync)


def sync(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="All of this home without one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, see docs/services.md")] = False,
) -> None:
    """Send MLflow what runs of this home have kept while it was away; exit code 0: nothing is left to send."""
    from deployments.cli.terminal.tables import print_json
    from deployments.runs.sync import sync as send

    outcomes: list[Outcome] = []
    wanted: list[str | None] = [_full_id(run) for run in runs or []]
    for run in wanted or [None]:
        for outcome in send(run):
            outcomes.append(outcome)
            if not as_json:
                typer.echo(_line(outcome))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    elif not outcomes:
        typer.echo("MLflow has all of it: nothing to send")
    raise typer.Exit(int(any(outcome.left for outcome in outcomes)))


def _full_id(run: str) -> str:
    """Return the name of the folder that a run works in: of a stage, the one of its pipeline."""
    from deployments.runs.own_records import found_anywhere

    folder = run_path(run)
    if folder is None or not folder.is_dir():  # its folder is known also where the server is away
        with found_anywhere(run) as (_, found):
            run = str(found["id"])
    return files_of(run).name


def _line(outcome: "Outcome") -> str:
    sent = outcome.sent
    counts = "" if sent is None else f": {sent.n_rows} values, {sent.n_files} files, {sent.n_others} others"
    return f"run {outcome.run}, {outcome.part}: {outcome.text}{counts}"
