"""Says which hosts are lost, where they share no disk: nobody can look whether their runs still live."""

import os
from collections.abc import Callable

from gpu_pools.names import by_host, host_name
from gpu_pools.placement.queues import parse_duration
from gpu_pools.prefect_client import PoolClient
from tasks.base.errors import ConfigError
from tasks.store.setting import LOST_AFTER, hosts_share_a_disk

_DEFAULT = "5m"


class LostHosts:
    """Watches which hosts have a worker that is heard of.

    A host that is only cut off goes on with its runs, and each GPU is still one run's alone: the same run may compute
    twice for a while. What the one that was cut off makes after that time is thrown away when it is back.

    Args:
        client: of Prefect's server.
        clock: Unix seconds.
    """

    def __init__(self, client: PoolClient, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock
        self._active, self._after_s = not hosts_share_a_disk(), _lost_after_s()
        self._silent_since: dict[str, float] = {}

    @property
    def may_be(self) -> bool:
        """Return whether a host can be lost: where all share a disk, one that is away is seen by its locks."""
        return self._active

    def look(self) -> frozenset[str]:
        """Return the hosts that are lost, if it is this host that is to take their runs over.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        if not self._active:
            return frozenset()
        online, now = by_host(self._client.workers()), self._clock()
        silent = {host for host, heard in online.items() if not heard}
        self._silent_since = {host: self._silent_since.get(host, now) for host in silent}
        living = sorted(online.keys() - silent)
        if not living or living[0] != host_name():
            return frozenset()  # one takes over, so that no run is put back twice
        return frozenset(host for host, since in self._silent_since.items() if now - since >= self._after_s)


def _lost_after_s() -> float:
    text = os.environ.get(LOST_AFTER, "") or _DEFAULT
    try:
        return parse_duration(text)
    except ConfigError as exc:
        raise ConfigError(f"found {LOST_AFTER}={text!r}: {exc}") from exc
