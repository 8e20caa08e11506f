"""Decides what becomes of a run handed to Slurm, from its state and that of its job."""

from dataclasses import dataclass
from typing import Literal

from gpu_pools.prefect_client import Run
from gpu_pools.slurm.job_states import OUT_OF_TIME, TAKEN_BACK, Job
from gpu_pools.worker.monitor.final_state import MAX_RETRIES, FinalState

Act = Literal["leave", "cancel job", "forget", "hand over", "set state"]

_ENDED = {"CANCELLED", "COMPLETED", "FAILED", "CRASHED"}
_ENDS_ITSELF = {"COMPLETED", "FAILED", "CRASHED"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about a run.

    Args:
        act: `leave` it as it is; `cancel job`; `forget` the run, which has ended; `hand over` a job anew; `set state`.
        state: the run gets, with `set state`.
        counts: a job has failed that said nothing of the run.
    """

    act: Act
    state: FinalState | None = None
    counts: bool = False


def judge(run: Run | None, job: Job | None, *, attempt: int, n_failed: int) -> Verdict:
    """Return what is to be done about a run that was handed over.

    Args:
        run: as the server has it, read after Slurm was asked; None: it was deleted.
        job: as Slurm has it; None: Slurm knows no such job any more, so no process of it is left.
        attempt: the one of the run that its job was at, from 1.
        n_failed: jobs before it that failed without a word on the run.
    """
    over = job is None or job.over
    if run is None or run.state in _ENDED:
        if over:
            return Verdict("forget")
        # A process that has written its last state sends what is left, and ends by itself.
        alone = run is not None and run.state in _ENDS_ITSELF and job is not None and not job.waits
        return Verdict("leave") if alone else Verdict("cancel job")
    if run.state == "CANCELLING":
        return _set("cancelled", run.message or "cancelled") if over else Verdict("cancel job")
    if not over:
        requeued = job is not None and job.waits and run.state in {"RUNNING", "PENDING"}
        return _again(job, attempt, "was requeued") if requeued else Verdict("leave")
    return _after(run, job, attempt, n_failed)


def _after(run: Run, job: Job | None, attempt: int, n_failed: int) -> Verdict:
    """Return what is to be done about a run that has not ended, while its job has."""
    name, how = _name(job), job.state if job else ""
    if how == "CANCELLED":
        return _set("cancelled", f"{name} was cancelled in Slurm; what it saved is kept")
    if how in OUT_OF_TIME:
        return _set("timed out", f"{name} was stopped by Slurm at its time limit; what it saved is kept")
    waits = run.state not in {"RUNNING", "PENDING"}
    if how in TAKEN_BACK:
        return Verdict("hand over") if waits else _again(job, attempt, f"lost its node ({how})")
    ended = f"ended as {how}" if job else "is gone"
    if waits:
        if n_failed >= MAX_RETRIES:
            return _set("crashed", f"given up: {name} {ended}, as {n_failed} before it, and said nothing; see its log")
        return Verdict("hand over", counts=True)
    if attempt > MAX_RETRIES:
        return _set("crashed", f"given up after {attempt} attempts: {name} {ended}; what it saved is kept")
    turn = f"attempt {attempt + 1} of {MAX_RETRIES + 1}"
    text = f"starts again, from its checkpoint if it has one, {turn}: {name} {ended}"
    return Verdict("set state", FinalState("waits", text, attempt + 1))


def _again(job: Job | None, attempt: int, why: str) -> Verdict:
    text = f"starts again, from its checkpoint if it has one: {_name(job)} {why}"
    return Verdict("set state", FinalState("waits", text, attempt))


def _set(outcome: Literal["cancelled", "timed out", "crashed"], text: str) -> Verdict:
    return Verdict("set state", FinalState(outcome, text))


def _name(job: Job | None) -> str:
    return f"Slurm job {job.id}" if job else "its Slurm job"
