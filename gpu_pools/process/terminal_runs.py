"""Ends, in Prefect, a terminal's run whose process is gone: one that was killed cannot do so itself."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from prefect.client.schemas.objects import StateType

from gpu_pools.names import GIVEN_BACK_LABEL, PROCESS_LABEL
from gpu_pools.prefect_client import PoolClient, make_state
from gpu_pools.process.process_label import is_gone

logger = logging.getLogger("trainyard.worker")

_GONE = "its process is gone: it was killed, or its host went down"
_GOING = ["PENDING", "RUNNING"]


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
            if is_gone(str((run["labels"] or {}).get(PROCESS_LABEL, ""))) and any(
                self._going({"id": {"any_": [run["id"]]}})
            ):
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
