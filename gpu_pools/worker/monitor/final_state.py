"""Decides the final state of a run whose process is gone."""

import signal
from dataclasses import dataclass
from typing import Literal

from gpu_pools.process.run_setup import EXIT_SUPERSEDED
from gpu_pools.slots.ledger import Ending

MAX_RETRIES = 3
"""How often a run whose process died is started again before it is given up."""

Outcome = Literal["nothing", "cancelled", "waits", "timed out", "crashed"]


@dataclass(frozen=True, slots=True)
class FinalState:
    """The state a run gets, the sentence it carries, and whether the attempt counts."""

    outcome: Outcome
    message: str = ""
    attempt: int = 1  # of the next start, where it waits


def final_state(
    state_type: str,
    *,
    phase: str,
    attempt: int,
    ending: Ending | None,
    reason: str = "",
    exit_code: int | None = None,
    word: str = "",
) -> FinalState:
    """Return where a run belongs now that no process of it is left.

    Args:
        state_type: as the server has it: RUNNING, COMPLETED ...
        phase: of the ledger's entry; `claimed`: there never was a process.
        attempt: the one that ended, from 1.
        ending: why the worker ended it, None where it ended by itself.
        reason: the sentence to that.
        exit_code: of the process; negative: the signal; None: unknown, as after a restart of the worker.
        word: why it ended itself, as it has left it; "": it left nothing.
    """
    if exit_code == EXIT_SUPERSEDED:
        return FinalState("nothing")  # it ended because the run is somebody else's
    if state_type == "CANCELLING" or ending == "cancel":
        done = state_type in {"CANCELLED", "COMPLETED", "FAILED"}
        return FinalState("nothing") if done else FinalState("cancelled", reason or "cancelled")
    if state_type in {"COMPLETED", "FAILED", "CANCELLED", "PAUSED"}:
        return FinalState("nothing")
    if ending == "time limit":
        return FinalState("timed out", reason)
    if state_type == "SCHEDULED":
        return FinalState("nothing")  # it waits already: retried by Prefect, or put back by somebody
    if ending == "stop":
        why = reason or "the worker was stopped"
        return FinalState("waits", f"starts again, from its checkpoint if it has one: {why}", attempt)
    if phase == "claimed":
        return FinalState("waits", "starts again: the worker was gone before the run had a process", attempt)
    how = word or f"the process {_how(exit_code)}"
    if attempt > MAX_RETRIES:
        return FinalState("crashed", f"given up after {attempt} attempts: {how}; what it saved is kept")
    turn = f"attempt {attempt + 1} of {MAX_RETRIES + 1}"
    text = f"starts again, from its checkpoint if it has one, {turn}: {how}"
    return FinalState("waits", text, attempt + 1)


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "was gone"
    if exit_code >= 0:
        return f"ended with code {exit_code} and said nothing"
    name = signal.Signals(-exit_code).name
    hint = ", often for want of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
