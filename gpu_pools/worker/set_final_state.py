"""Puts a run whose process is gone where it belongs, and what it started with it."""

from prefect.client.schemas.objects import StateType

from gpu_pools.prefect_client import Run, Server, ended, waiting
from gpu_pools.process import run_setup
from gpu_pools.slots.ledger import Entry
from gpu_pools.worker.final_state import Settlement


def finish(server: Server, run: Run, settlement: Settlement, entry: Entry) -> None:
    """Tell the server what was decided on a run, its steps and its stages; its temporary files go.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    run_setup.sweep(run.id)
    if settlement.verdict == "nothing":
        return
    died = settlement.verdict in ("waits", "crashed") and entry.ending is None
    step = (StateType.CRASHED, "Crashed") if died else (StateType.CANCELLED, "Cancelled")
    server.end_steps(run.id, ended(*step, settlement.message))
    match settlement.verdict:
        case "waits":
            spent_s = entry.spent_s + run_setup.time_spent(run.id, entry.began)
            run_setup.write_attempt(run.id, settlement.attempt, spent_s)
            server.force(run.id, waiting(settlement.message, run.since))
            return
        case "cancelled":
            state = ended(StateType.CANCELLED, "Cancelled", settlement.message)
        case "timed out":
            state = ended(StateType.FAILED, "TimedOut", settlement.message)
        case "crashed":
            state = ended(StateType.CRASHED, "Crashed", settlement.message)
    server.force(run.id, state)
    for child in server.children(run.id):
        # Not forced: where a stage waits, the server makes it Cancelled at once.
        server.propose(child.id, ended(StateType.CANCELLING, "Cancelling", f"{run.name} has ended"))
