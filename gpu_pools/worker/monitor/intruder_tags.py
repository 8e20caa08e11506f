"""Tags runs whose GPU a foreign process shares."""

import logging
from collections.abc import Sequence

from gpu_pools.placement.host_state import HostState
from gpu_pools.prefect_client import PoolClient
from gpu_pools.slots.ledger import Entry

logger = logging.getLogger("trainyard.worker")


class IntruderTags:
    """Writes each of them once: the times and the memory of such a run are not its own.

    Args:
        client: of Prefect's server.
        host: sees the processes on its GPUs.
    """

    def __init__(self, client: PoolClient, host: HostState) -> None:
        self._client, self._host = client, host
        self._tagged: set[tuple[str, str]] = set()

    def look(self, runs: Sequence[Entry]) -> None:
        """Tag those of these runs that are not alone on their GPU.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        intruders = self._host.intruders() if runs else {}
        for entry in runs:
            for process, where in intruders.get(entry.run_id, []):
                if (entry.run_id, process) not in self._tagged:
                    self._client.add_tag(entry.run_id, f"GPU shared with process {process}{where}")
                    self._tagged.add((entry.run_id, process))
                    logger.warning("run %s shares %s with process %s", entry.run_id, entry.tag, process)
