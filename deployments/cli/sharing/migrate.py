"""The command `yard migrate`: the history of this box becomes that of a lab."""

from pathlib import Path
from typing import Annotated

import typer

from tasks.base.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(migrate)


def migrate(
    config: Annotated[Path, typer.Option(help="lab.yaml of the host with the lab's services, see docs/lab.md")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, see docs/lab.md")] = False,
) -> None:
    """Copy the runs, metrics, models and files of this home into an empty lab; what is here stays as it is.

    Cut off, the same command goes on. Both the yard of this home and the lab are to be down meanwhile.
    """
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.lab.files import send_files
    from deployments.lab.migrate import move, sources
    from deployments.lab.plan import LabPlan
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import Target
    from tasks.base.workspace import home

    plan = LabPlan.of_file(config, ["services"])
    database, files = plan.config.database, plan.config.files
    if database is None or files is None:
        raise ConfigError(f"found no database or files in {config}, need the file of the services' host")
    artifacts = home() / "mlflow" / "artifacts"

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    noted = Acts(None, force=False, admins=()).act("migrate", Target("home", "", str(home())), files.place)
    with noted, sources() as engines:
        plan.check()
        plan.upgrade()
        sent = send_files(files, artifacts, say)
        say(f"{sent.n_files} files, {sent.n_bytes / 1e6:.1f} MB in {files.place}, {sent.n_before} of them before")
        moved = [move(name, engines[name], database, artifacts, say) for name in ("mlflow", "prefect")]
    if as_json:
        print_json({"files": asdict(sent), "databases": [asdict(one) for one in moved]})
        return
    for one in moved:
        how = "were moved before" if one.before else "are there as here"
        typer.echo(f"{one.name}: {sum(one.rows.values())} rows of {len(one.rows)} tables {how}")
