"""The command `yard limit`: how many runs a device takes at once, or requests a served model."""

from typing import Annotated

import typer

from deployments.cli.runs import JsonOption
from tasks.base.errors import ConfigError


def limit(
    device: Annotated[
        str | None,
        typer.Argument(
            metavar="DEVICE|RUN", help="cuda:1, cpu or boxb/cuda:1; all of them without it; a run that serves a model"
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KIND=NUMBER|NUMBER", help="training=2; of a served model its requests at once"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="More than 16 at once, too, and where the yard's admins decide; it is noted")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set how many runs of a kind a device takes at once, or the requests of a served model; print all limits."""
    if device is not None and assignments and assignments[0].isdecimal() and not _is_device(device):
        _limit_served(device, assignments, as_json, force)
        return
    from deployments.api import connect
    from deployments.cli.terminal.tables import console, limits_table, print_json
    from deployments.runs import run_actions
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import Target

    with connect() as api:
        if device is not None and assignments:
            with Acts.of(api, force=force).act(
                "limit", Target("device", "", device, shared=True), " ".join(assignments)
            ):
                run_actions.set_limits(api, device, assignments, force=force)
        elif device is not None:
            run_actions.set_limits(api, device, [])
        found = [row for row in run_actions.read_limits(api) if assignments or device in {None, row["device"]}]
    print_json(found) if as_json else console().print(limits_table(found))


def register(app: typer.Typer) -> None:
    """Add the command to `yard`."""
    app.command()(limit)


def _is_device(text: str) -> bool:
    from gpu_pools.placement.queues import QueueError, parse_device

    try:
        return bool(parse_device(text))
    except QueueError:
        return False


def _limit_served(wanted: str, numbers: list[str], as_json: bool, force: bool) -> None:
    from deployments.cli.terminal.tables import print_json
    from deployments.runs.served_models import find_served, set_requests_at_once
    from deployments.sharing.acts import Acts
    from deployments.sharing.permissions import Target

    if len(numbers) > 1:
        raise ConfigError(f"found {' '.join(numbers)}, need one number: the requests at once of a served model")
    served = find_served(wanted)
    limit = int(numbers[0])
    target = Target("run", served.run_id, served.address.model, _owner(served.run_id))
    with Acts.of(None, force=force).act("limit", target, f"{limit} requests at once"):
        was = set_requests_at_once(served, limit)
    if as_json:
        print_json({"run": served.run_id, "model": served.address.model, "limit": limit, "was": was})
    else:
        typer.echo(f"run {served} answers {limit} requests at once now; it was {was}")


def _owner(run_id: str) -> str:
    """Return whose run it is; empty where no record says so."""
    from deployments.runs.own_records import found_anywhere
    from deployments.sharing.permissions import run_owner

    try:
        with found_anywhere(run_id) as (_, run):
            return run_owner(run)
    except ConfigError:
        return ""
