"""Sends what runs of this home have not given to MLflow, and starts what they postponed while it was away."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from deployments.api import Api, Json, NotFoundError, api_url, connect
from deployments.runs.find import ENDED
from deployments.runs.submit import deployment_of
from deployments.services.database import database_up
from deployments.services.service import ServiceError, healthy
from deployments.stack.stack import known_stack
from gpu_pools.names import asker
from tasks.base.errors import ConfigError, StorageError, TrackingError
from tasks.base.startup import module_command
from tasks.run.postponed import Postponed, find_postponed
from tasks.tracking.unsent import Contents, Unsent, contents, find_unsent


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one tracked run, or of a flow that was postponed."""

    run: str  # its folder's name: the id in Prefect
    part: str  # of the run: training, prediction ...; or the flow
    text: str
    sent: Contents | None = None
    left: bool = False  # something is still to be done, and by nobody else


def sync(run: str | None = None) -> Iterator[Outcome]:
    """Yield what became of each run of this home with something to send, as it happens.

    Args:
        run: only the one of this id; None: all.

    Raises:
        ServiceError: the database of this home does not start.
        StorageError: a file is damaged.
    """
    unsent, postponed = find_unsent(run), find_postponed(run)
    if not unsent and not postponed:
        return
    with _mlflow_known():
        address = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        away = address.startswith("http") and not healthy(f"{address}/health")
        why = f"MLflow at {address} does not answer" if away else ""
        for found in unsent:
            yield _send(found, why)
        for flow in postponed:
            if why or (run is None and time.time() < flow.due):
                text = (
                    why
                    or f"is tried again later, {flow.attempts} times were in vain; `yard sync {flow.run}` does it now"
                )
                yield Outcome(flow.run, flow.flow, text, left=True)
            else:
                yield _start(flow)


def count_unsent() -> int:
    """Return how many runs of this home have something to send, or postponed something, and no process that does it."""
    return len({found.run for found in find_unsent() if found.writer is None} | {one.run for one in find_postponed()})


@contextmanager
def _mlflow_known() -> Iterator[None]:
    """Let this process find MLflow: as the environment says, the running stack's, or the database of this home."""
    with ExitStack() as stack:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            if known := known_stack():
                os.environ["MLFLOW_TRACKING_URI"] = known["mlflow"]
            else:
                stack.enter_context(database_up(make=False))
        yield


def _send(found: Unsent, away: str) -> Outcome:
    part = found.folder.name
    if found.writer is not None:
        return Outcome(found.run, part, f"process {found.writer} writes it, and sends by itself")
    if away:
        return Outcome(found.run, part, away, left=True)
    from tasks.tracking.mlflow_api import is_away
    from tasks.tracking.uploader import upload

    try:
        sent = contents(found)
        mlflow_run = upload(found.folder)
    except StorageError as exc:
        return Outcome(found.run, part, str(exc), left=True)
    except TrackingError as exc:  # what MLflow refuses for good is told, and tried no more by itself
        return Outcome(found.run, part, str(exc), left=is_away(exc))
    return Outcome(found.run, part, f"sent to MLflow run {mlflow_run}", sent)


def _start(found: Postponed) -> Outcome:
    """Start a flow that was postponed: in its queue where a server is up, else here."""
    try:
        api_url()
    except ConfigError:  # no server is up
        return _run_here(found)
    try:
        with connect() as api:
            run = _submit(api, found)
    except (ConfigError, ServiceError) as exc:
        return Outcome(found.run, found.flow, str(exc), left=True)
    if run["state_type"] in ENDED:  # it would have removed the file that asks for it
        text = f"run {run['id']} was to do it and is {run['state_name']}: retry that one"
        return Outcome(found.run, found.flow, text)
    return Outcome(found.run, found.flow, f"run {run['id']} does it: {run['state_name']}")


def _run_here(found: Postponed) -> Outcome:
    """Run the flow in a process of its own: each has its own address of Prefect."""
    values = [f"--set={name}={json.dumps(value)}" for name, value in found.parameters.items()]
    done = subprocess.run(module_command("deployments.cli.app", "run", found.flow, *values), check=False)
    text = f"{'is done' if done.returncode == 0 else 'failed'}, as told above"
    return Outcome(found.run, found.flow, text, left=done.returncode != 0)


def _submit(api: Api, found: Postponed) -> Json:
    """Hand the flow to its queue, once however often it is asked for; return the run."""
    deployment = deployment_of(api, found.flow)["id"]
    try:
        first = api.call("GET", f"/flow_runs/{found.run}")
    except NotFoundError:  # of `yard run`, without this server
        first = {}
    body = {
        "parameters": found.parameters,
        "idempotency_key": f"{found.run}-{found.flow}-{found.since}",
        "job_variables": {"owner": (first.get("job_variables") or {}).get("owner") or asker()},
    }
    return dict(api.call("POST", f"/deployments/{deployment}/create_flow_run", body))
