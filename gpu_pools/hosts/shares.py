"""The runs by which other hosts take part in a run, and its way back to the queue without them."""

import os
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import httpx
from prefect.client.schemas.objects import StateType

from gpu_pools.hosts.offers import LABEL, SHARE_LABEL
from gpu_pools.hosts.params import ShareParams
from gpu_pools.names import host_name
from gpu_pools.placement.queues import Queue, parse_queue
from gpu_pools.prefect_client import PoolClient, Run, make_state, waiting_state
from gpu_pools.process.run_process import MARK
from gpu_pools.process.run_setup import MEETING, ON
from gpu_pools.project_flows import full_names
from gpu_pools.slots.ledger import Entry
from tasks.base.errors import ConfigError

FLOW = "join_training"


def run_shared_by(run: Run) -> str:
    """Return the id of the run that a run is a share of; "": it is none."""
    share = run.parameters.get("share")
    return str(share.get("run") or "") if run.flow_name == FLOW and isinstance(share, dict) else ""


def call_hosts(client: PoolClient, run: Run, entry: Entry, n_devices: int, hosts: Sequence[str]) -> str:
    """Ask other hosts for their shares of a run that is about to start here; return what `run_setup.MEETING` is to be.

    Args:
        client: of Prefect's server.
        run: the run, which is to have no process yet.
        entry: of the run.
        n_devices: of each host.
        hosts: their names; they have said that their devices are free.

    Raises:
        ConfigError: the server has no deployment of such runs.
        httpx.HTTPError: the server does not answer.
    """
    _clear(client, run)
    number = uuid4().hex
    deployed = _deployment(client)
    for host in hosts:
        share = ShareParams(run=run.id, meeting=number, n_devices=n_devices)
        parent = client.call("POST", "/task_runs/", _parent_of_share(run.id, host, number))
        body = {
            "name": f"{run.name} on {host}",
            "parameters": {"share": share.model_dump()},
            "parent_task_run_id": parent["id"],
            "work_queue_name": Queue("cuda", parse_queue(entry.queue).kind, host).name,
            "job_variables": {"owner": entry.owner, "priority": entry.priority},
            "state": {"type": "SCHEDULED"},
        }
        client.call("POST", f"/deployments/{deployed}/create_flow_run", body)
    return f"{number} {','.join(hosts)}"


def _parent_of_share(run_id: str, host: str, number: str) -> dict[str, Any]:
    """Return the step of a run that stands for another run, as Prefect ties the two together."""
    return {
        "flow_run_id": run_id,
        "name": f"share of {host}",
        "task_key": FLOW,
        "dynamic_key": f"{host}-{number}",
        "state": {"type": "PENDING", "name": "Pending"},
    }


def dismiss_others(client: PoolClient, run_id: str, meeting: str) -> None:
    """Cancel the shares of earlier starts of a run that still wait, or that nobody has ended.

    Args:
        client: of Prefect's server.
        run_id: of the run.
        meeting: from `call_hosts`; its shares stay.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    _dismiss(client, run_id, lambda number: number != meeting.partition(" ")[0])


def dismiss(client: PoolClient, run_id: str, meeting: str) -> None:
    """Cancel the shares of a start that did not come about: another host, perhaps, has started the run.

    Args:
        client: of Prefect's server.
        run_id: of the run.
        meeting: from `call_hosts`.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    _dismiss(client, run_id, lambda number: number == meeting.partition(" ")[0])


def _dismiss(client: PoolClient, run_id: str, is_over: Callable[[str], bool]) -> None:
    for child in client.children(run_id):
        if child.flow_name == FLOW and is_over(str(child.parameters["share"]["meeting"])):
            text = "the training that it is a share of starts anew, or has ended"
            client.propose(child.id, make_state(StateType.CANCELLING, "Cancelling", text))


def _clear(client: PoolClient, run: Run) -> None:
    """Take back what hosts have offered a run, which starts now; if it waits again, they offer anew."""
    gone = {f"{prefix}{host}": "" for prefix in (LABEL, SHARE_LABEL) for host in {*run.offers, host_name()}}
    client.set_labels(run.id, gone)


def note_share(share: ShareParams) -> None:
    """Write on a run that it has the devices of this process's run, too."""
    PoolClient().set_labels(share.run, {f"{SHARE_LABEL}{host_name()}": os.environ.get(ON, "")})


def _deployment(client: PoolClient) -> str:
    for name in full_names(FLOW):
        try:
            return str(client.call("GET", f"/deployments/name/{name}", None)["id"])
        except httpx.HTTPStatusError as exc:
            if exc.response.status_code != httpx.codes.NOT_FOUND:
                raise
    raise ConfigError(f"found no deployment {full_names(FLOW)[0]} on Prefect's server: `yard up` makes it")


def put_back(reason: str) -> None:
    """Let the run of this process wait in its queue again, without counting the attempt; it has to end now.

    Its shares that have not begun are cancelled.

    Args:
        reason: why; a sentence.
    """
    client, run_id = PoolClient(), os.environ[MARK]
    dismiss(client, run_id, os.environ.get(MEETING, ""))
    if (run := client.by_id([run_id]).get(run_id)) is not None and run.state in ("RUNNING", "PENDING"):
        client.force(run_id, waiting_state(reason, run.since))
