"""Sets the final state of a run whose process is gone, and of its steps and stages."""

from prefect.client.schemas.objects import StateType

from gpu_pools.prefect_client import PoolClient, Run, make_state, waiting_state
from gpu_pools.process import run_setup
from gpu_pools.slots.ledger import Entry
from gpu_pools.worker.monitor.final_state import FinalState


def set_final_state(client: PoolClient, run: Run, found: FinalState, entry: Entry) -> None:
    """Tell the server what was decided on a run, its steps and its stages; its temporary files go.

    Raises:
        httpx.HTTPError: the server does not answer.
    """
    run_setup.clean_up(run.id)
    if found.outcome == "nothing":
        return
    died = found.outcome in ("waits", "crashed") and entry.ending is None
    step = (StateType.CRASHED, "Crashed") if died else (StateType.CANCELLED, "Cancelled")
    client.end_steps(run.id, make_state(*step, found.message))
    match found.outcome:
        case "waits":
            spent_s = entry.spent_s + run_setup.time_spent(run.id, entry.began)
            run_setup.write_attempt(run.id, found.attempt, spent_s)
            client.force(run.id, waiting_state(found.message, run.since))
            return
        case "cancelled":
            state = make_state(StateType.CANCELLED, "Cancelled", found.message)
        case "timed out":
            state = make_state(StateType.FAILED, "TimedOut", found.message)
        case "crashed":
            state = make_state(StateType.CRASHED, "Crashed", found.message)
    client.force(run.id, state)
    for child in client.children(run.id):
        # Not forced: where a stage waits, the server makes it Cancelled at once.
        client.propose(child.id, make_state(StateType.CANCELLING, "Cancelling", f"{run.name} has ended"))
