"""The Prefect tasks that run a person's own command, or an interactive session."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from gpu_pools.placement.probe import get_probe
from gpu_pools.process.run_setup import ON, output_file
from gpu_pools.slots.activity import Activity
from gpu_pools.slots.lease import own_holders
from gpu_pools.slots.local_slot import LocalSlot
from gpu_pools.stopping import look
from tasks.base.errors import TrainyardError
from tasks.base.servers.database import mlflow_uri
from tasks.base.servers.mlflow_account import account_variables, known_account
from tasks.base.workspace import storage_errors
from tasks.programs.attended import run_attended
from tasks.programs.params import ProgramParams, SessionParams
from tasks.programs.session import Bounds, run_session
from tasks.run.display import SHOWN
from tasks.run.mlflow_run import hold_mlflow_run
from tasks.run.run_log import Logger, logger
from tasks.run.step_context import run_key, step_dir
from tasks.tracking.provenance import redacted

NEEDED_FIRST = ("tasks.tracking.tracker",)
EXPERIMENT = "programs"
_MOST_LINES = 10_000


class ExitCode(TrainyardError):
    """A command ended with another exit code than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


@task(task_run_name="{program.command}", cache_policy=NO_CACHE)
def run_program(program: ProgramParams, slot: LocalSlot) -> int:
    """Run the command on the slot and return its exit code; its MLflow run fails with it.

    Raises:
        StorageError: what it prints cannot be kept.
        Interrupted: a signal ended it.
    """
    from tasks.tracking.mlflow_api import tracking_uri

    shown = program.model_dump()
    name, experiment = str(flow_run.name), program.environment.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    try:
        with hold_mlflow_run(
            step_dir(None, "program"), {"program": shown}, program.device, experiment, name, free=()
        ) as (tracker, log):
            own = {"MLFLOW_TRACKING_URI": tracking_uri(), "MLFLOW_EXPERIMENT_NAME": experiment}
            own |= account_variables(known_account(tracking_uri()))
            if tracker.known_id is None:
                log.warning("MLflow does not answer: what the command logs there itself will not be in this run")
                own = {}
            else:
                own["MLFLOW_RUN_ID"] = tracker.known_id
            log.info("runs %s on %s in %s", program.command, os.environ.get("TRAINYARD_ON", "?"), program.folder)
            path = output_file(run_key())
            with storage_errors(path), path.open("ab", buffering=0) as file:
                code = run_attended(
                    program.words, {**program.environment, **slot.env, **own}, slot.locks, file, _to_log(log, path)
                )
            look()
            if code:
                raise ExitCode(code)
    except ExitCode as exc:
        return exc.code
    return 0


@task(task_run_name="{session.command}", cache_policy=NO_CACHE)
def hold_session(session: SessionParams, slot: LocalSlot) -> tuple[int, str]:
    """Run an interactive program on the slot; return its exit code, and why it was ended, empty: by itself.

    What is printed stays on the terminal: a shell shows what is for nobody else.

    Raises:
        Interrupted: a signal ended it.
    """
    where = slot.env.get(ON) or os.environ.get(ON, "")
    gpus = [holder.uuid for holder in own_holders() if holder.uuid != "cpu"]
    activity = Activity(get_probe(), gpus, time.monotonic)
    own = {"YARD_SLOT": where, "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or mlflow_uri()}
    own |= account_variables(known_account(own["MLFLOW_TRACKING_URI"]))
    logger().info("runs %s on %s in %s", session.command, where, session.folder)
    code, reason = run_session(
        *(session.words, {**session.environment, **slot.env, **own}, slot.locks),
        Bounds(session.lasts, session.idle),
        activity,
        is_shell=session.is_shell,
    )
    look()
    return code, reason


def _to_log(log: Logger, path: Path) -> Callable[[str], None]:
    """Return what writes a line of the command to the log of the run, not to the terminal, which has it already."""
    n_lines = 0

    def say(line: str) -> None:
        nonlocal n_lines
        n_lines += 1
        if n_lines <= _MOST_LINES:
            log.info("%s", redacted(line), extra={SHOWN: True})
        elif n_lines == _MOST_LINES + 1:
            log.info("it prints more than %s lines; all of them are in %s", _MOST_LINES, path)

    return say
