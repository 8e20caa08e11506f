"""Keeps a home's PostgreSQL up while anybody needs it: `python -m deployments.services.shared_postgres`."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.services.postgres import Cluster, load, record, server_command
from deployments.services.shared_service import Keeper
from tasks.base.startup import module_command
from tasks.base.workspace import home

_STOP_LIMIT_S = 60
_MAX_STARTS = 5
"""A server that was killed leaves helpers, which need a moment to end."""


def postgres_keeper() -> Keeper:
    """Return how the commands of this home share its PostgreSQL."""
    return Keeper("PostgreSQL", "deployments.services.shared_postgres", home() / "postgres", "postgres", _MAX_STARTS)


@contextmanager
def postgres_up() -> Iterator[Cluster]:
    """Have the home's PostgreSQL up for the block; it ends with the last one who needs it.

    Raises:
        ServiceError: it does not start; with the end of its log.
    """
    cluster, keeper = load(), postgres_keeper()
    record(cluster)  # the home may have been moved
    shared = keeper.share()
    try:
        keeper.ensure(cluster.ready)
        yield cluster
    finally:
        keeper.release(shared)


def main() -> None:
    """Run the server until nobody needs it; exit with 1 if it ended before."""
    keeper = postgres_keeper()
    with keeper.sole() as sole:
        if not sole:
            return
        cluster = load()
        user = f"--user={cluster.user.pw_uid}:{cluster.user.pw_gid}" if cluster.user.pw_uid != os.geteuid() else ""
        command = module_command("gpu_pools.process.parent_death", "--signal=INT", *filter(None, [user]))
        process = subprocess.Popen([*command, *server_command(cluster)], cwd="/", stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            if not keeper.wait_for_users(process):
                sys.exit(1)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)  # its fast way: open connections are closed, nothing is lost
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # at once; the next start recovers from its journal
        process.wait()


if __name__ == "__main__":
    main()
