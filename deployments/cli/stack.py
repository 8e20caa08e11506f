"""Commands that start, stop and show the services of this machine."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.base.errors import ConfigError
from tasks.base.workspace import allowed_roots, home

if TYPE_CHECKING:
    from deployments.lab.plan import LabPlan
    from deployments.runs.prefect_http import QueueCount
    from deployments.sharing.bookings import BookingRow
    from deployments.stack.health import Health
    from gpu_pools.bookings.booking import Occurrence

Json = Annotated[bool, typer.Option("--json", help="One JSON document, for programs")]


class Stack(StrEnum):
    """What `yard up` keeps up."""

    box = "box"
    lab = "lab"


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    for command in (up, down, status, devices):
        app.command()(command)


def up(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect's pages")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's pages")] = 5000,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background; `yard down` ends it")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers of this host")] = 1,
    password: Annotated[
        bool, typer.Option("--password", help="Prefect asks for one from now on; made once, in TRAINYARD_HOME/password")
    ] = False,
    stack: Annotated[Stack, typer.Option(help="box: all on this machine; lab: what --config puts here")] = Stack.box,
    config: Annotated[Path | None, typer.Option(help="lab.yaml, see docs/lab.md")] = None,
    here: Annotated[
        list[str] | None, typer.Option(help="services, worker or inbox, instead of what --config puts here")
    ] = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring a lab's tables up to date; back them up first")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look at each service of a lab")] = False,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Only show what there is; nothing starts")] = False,
    host: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Start Prefect, MLflow and a worker on this machine, and show their pages until Ctrl-C."""
    from deployments.stack.daemon import log_line, start_detached
    from deployments.stack.pidfile import refuse_second
    from deployments.stack.supervisor import Plan, Planned, Supervisor, check_host
    from tasks.base.servers.password import make_password

    check_host("--host", host)
    if password:
        refuse_second()  # which goes on as it began
        make_password()
    plan: Planned = Plan(prefect_port, mlflow_port, 0 if no_worker else workers)
    if stack is Stack.lab:
        plan = _lab(config, here or (), upgrade=upgrade, only_look=check)
        if check:
            return
    elif config or here or upgrade or check:
        raise ConfigError("found options of a lab without it: need --stack lab --config lab.yaml")
    if detach:
        start_detached(plan, typer.echo)
        _welcome("`yard down` ends all of it; what it holds stays.")
        return

    def say(text: str) -> None:
        with suppress(OSError):  # the terminal is gone; the runs are waited for all the same
            typer.echo(text)
        log_line(text)

    Supervisor(plan, say).run(
        lambda: _welcome("Ctrl-C ends all of it once its runs have ended; a second one does not wait for them.")
    )


def _lab(path: Path | None, here: Sequence[str], *, upgrade: bool, only_look: bool) -> "LabPlan":
    """Return what of a lab belongs on this host, once all that it needs works.

    Raises:
        ConfigError: the file is wrong, or a service; a sentence each.
    """
    from deployments.lab.plan import LabPlan

    if path is None:
        raise ConfigError("found --stack lab without its settings: need --config lab.yaml")
    plan = LabPlan.of_file(path, here)
    plan.check(upgrade=upgrade)
    typer.echo(f"{path}: all that this host needs ({', '.join(plan.config.here)}) works")
    if not only_look:
        plan.upgrade()
    return plan


def _welcome(end: str) -> None:
    from deployments.stack.stack import stack_record

    _print_devices()
    record = stack_record()
    typer.echo(f"{record['prefect']}  runs, logs, schedules")
    typer.echo(f"{record['mlflow']}  metrics, curves, models")
    typer.echo(f"database: {record['database']}; workers: {', '.join(record['workers']) or 'none'}")
    typer.echo(f"files: {_reach()}")
    typer.echo(f"access: {_access()}")
    typer.echo(end)
    sys.stdout.flush()


def _reach() -> str:
    """Return which files the runs of this stack get at: whoever reaches its port can name any of them."""
    if roots := allowed_roots():
        return f"runs read and write below {':'.join(map(str, roots))} and {home()}"
    return "TRAINYARD_ALLOWED_ROOTS is unset: runs read and write what this user may; /data:... sets limits"


def _access() -> str:
    """Return who gets in."""
    from deployments.machine.accounts import asks_for_password, open_to, other_people
    from tasks.base.servers.mlflow_account import settings_file
    from tasks.base.servers.password import password_file

    if asks_for_password():
        where = f"Prefect asks for what is in {password_file()}"
        return f"{where}, MLflow for an account (`yard auth`)" if settings_file().exists() else where
    return open_to(other_people()) or "no password, and nobody else has an account here"


def down(
    now: Annotated[bool, typer.Option("--now", help="Stop the runs at their next checkpoint, to go on later")] = False,
) -> None:
    """End the services of `yard up`, once the runs of their worker have ended."""
    from deployments.stack.daemon import ENDED, stop_stack

    try:
        typer.echo(ENDED if stop_stack(typer.echo, now=now) else "the services are not up: nothing to end")
    except KeyboardInterrupt:
        typer.echo("it goes on ending in the background; `yard down --now` stops the runs at their next checkpoint")
        sys.exit(130)


def status(as_json: Json = False) -> None:
    """Say whether all is well, what works behind Prefect's pages as well; the exit code is 0 only then."""
    from deployments.cli.terminal.tables import print_json
    from deployments.stack.health import check

    health = check()
    if as_json:
        print_json(health.as_json())
    else:
        for line in _status_lines(health):
            typer.echo(line)
    sys.exit(0 if health.well else 1)


def devices(as_json: Json = False) -> None:
    """Show the devices of this machine, what runs on them and what waits for them."""
    _print_devices(as_json)


def _print_devices(as_json: bool = False) -> None:
    from deployments.api import connect
    from deployments.cli.terminal.tables import print_json
    from deployments.machine.devices import device_views, lines
    from deployments.runs.prefect_http import queue_counts
    from deployments.services.service import ServiceError
    from deployments.sharing.bookings import list_bookings

    counts: list[QueueCount] = []
    bookings: list[Occurrence] = []
    unknown = ""
    try:
        with connect() as api:
            counts = queue_counts(api.call)
            bookings = list_bookings(api.call, time.time())
    except (ConfigError, ServiceError) as exc:  # the devices are there all the same
        unknown = str(exc)
    views = device_views(counts, bookings)
    if as_json:
        print_json([view.as_json() for view in views])
        return
    for line in lines(views):
        typer.echo(line)
    if unknown:
        typer.echo(f"what waits is not known: {unknown}")


def _when(booking: "BookingRow") -> str:
    from deployments.cli.terminal.tables import clock

    begin, end = clock(booking.begin), clock(booking.end)
    return f"until {end}" if booking.now else f"from {begin} to {end[-5:] if begin[:-5] == end[:-5] else end}"


def _status_lines(health: "Health") -> Iterator[str]:
    from deployments.inbox.report import inbox_lines

    for name, service in health.services.items():
        version = f", version {service.version}" if service.version else ""
        process = f", process {service.pid or 'gone'}" if health.database else ""  # of a server elsewhere: not known
        yield f"{name:<10}{service.url}  {'works' if service.healthy else 'does not answer'}{version}{process}"
    if health.database:
        known = f" {health.database['version']}" if health.database["version"] else ""
        yield f"{'database':<10}{health.database['kind']}{known} in {health.database['place']}"
    for worker in health.workers:
        where = f", process {worker.pid}" if worker.pid else ""
        yield f"{'worker':<10}{worker.name} is {'online' if worker.online else 'not online'}{where}"
    for queue in health.queues:
        limit = "no limit" if queue.limit is None else f"limit {queue.limit}"
        paused = ", paused" if queue.paused else ""
        yield f"{'queue':<10}{queue.queue}: {queue.waiting} waiting, {queue.running} running, {limit}{paused}"
    for booking in health.bookings:
        yield f"{'booking':<10}{booking.device} is booked by {booking.owner} {_when(booking)}"
    yield f"{'home':<10}{health.home}, {health.disk_free_mib} MiB free"
    yield from inbox_lines(health.inbox)
    if n := health.unsent_runs:
        what = "runs have" if n > 1 else "run has"
        yield f"{'unsent':<10}{n} {what} something for MLflow yet: the worker sends it, or `yard sync` at once"
    for fault in health.faults:
        yield f"fault: {fault}"
    if health.well:
        yield "all is well"
