"""Ends, in Prefect, a terminal's run whose process is gone: one that was killed cannot do so itself."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from prefect.client.schemas.objects import StateType

from gpu_pools.names import GIVEN_BACK_LABEL, PROCESS_LABEL, host_name
from gpu_pools.prefect_client import PoolClient, make_state
from tasks.base.processes import identity

logger = logging.getLogger("trainyard.worker")

_GONE = "its process is gone: it was killed, or its host went down"
_GOING = ["PENDING", "RUNNING"]
_NAMESPACE = Path("/proc/self/ns/pid")


def process_label() -> dict[str, bool | int | float | str]:
    """Return the label of a flow run by which its host's worker tells whether this process, which runs it, lives."""
    own = os.getpid()
    return {PROCESS_LABEL: f"{host_name()} {os.readlink(_NAMESPACE)} {own} {identity(own)}"}


class TerminalRuns:
    """Call `look` a few times a minute.

    Args:
        client: of Prefect's server.
        ended: is told id and name of each run that is over, and what it is: `cancelled` or `crashed`.
    """

    def __init__(self, client: PoolClient, ended: Callable[[str, str, Literal["cancelled", "crashed"]], None]) -> None:
        self._client, self._ended = client, ended

    def look(self) -> None:
        """End what the server has as running in a terminal of this host whose process is gone.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        for run in self._going({"work_queue_name": {"is_null_": True}}):
            # Read again: a process that ends in order says so before it is gone.
            if _is_gone(run) and any(self._going({"id": {"any_": [run["id"]]}})):
                self._end(run)

    def _going(self, wanted: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        body = {"flow_runs": {**wanted, "state": {"type": {"any_": _GOING}}}}
        return list(self._client.pages("/flow_runs/filter", body))

    def _end(self, run: Mapping[str, Any]) -> None:
        """Give a run, its steps and the stages in its process their last state."""
        given_back = str((run["labels"] or {}).get(GIVEN_BACK_LABEL, ""))
        kind, name = (StateType.CANCELLED, "Cancelled") if given_back else (StateType.CRASHED, "Crashed")
        state = make_state(kind, name, given_back or _GONE)
        for stage in self._going({"parent_flow_run_id": {"any_": [run["id"]]}, "work_queue_name": {"is_null_": True}}):
            self._client.end_steps(stage["id"], state)
            self._client.force(stage["id"], state)
        self._client.end_steps(run["id"], state)
        self._client.force(run["id"], state)
        logger.warning("run %s (%s): %s", run["id"], run["name"], given_back or _GONE)
        self._ended(run["id"], run["name"], "cancelled" if given_back else "crashed")


def _is_gone(run: Mapping[str, Any]) -> bool:
    """Return whether the process of a run was one of this host, and is not there any more."""
    parts = str((run["labels"] or {}).get(PROCESS_LABEL, "")).split()
    if len(parts) != 4 or parts[:2] != [host_name(), os.readlink(_NAMESPACE)] or not parts[2].isdecimal():
        return False
    pid = int(parts[2])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it, or one that has its number now, is another user's
        pass
    try:
        return identity(pid) != parts[3] and Path(f"/proc/{pid}").exists()  # else it is hidden from this user
    except PermissionError:
        return False
