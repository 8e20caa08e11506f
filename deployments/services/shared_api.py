"""A Prefect server for `yard run`, shared by all such runs of a home.

`python -m deployments.services.shared_api` runs it. Two servers on one file of SQLite make its tables at once at their
first start, and one of them fails; later they wait for one another.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.services.database import database_up
from deployments.services.programs import prefect_service
from deployments.services.service import Service, check_port, free_port, spawn, stop
from deployments.services.shared_service import Keeper
from gpu_pools.names import host_name
from tasks.base.errors import TrainyardError
from tasks.base.file_locks import FOREVER, lock
from tasks.base.workspace import home, write_atomic

_NAME = "prefect-of-runs"
_MAX_STARTS = 3
"""One that is killed is started again, as runs wait for it; a stack that starts meanwhile may have made its tables."""


@dataclass(frozen=True, slots=True)
class SharedApi:
    """A share of the home's API, from the moment its address is known.

    Args:
        keeper: how it is shared.
        service: the server.
        shared: of the lock of those who need it.
        begun: the keeper that this process has started; None: there was one.
    """

    keeper: Keeper
    service: Service
    shared: int
    begun: "subprocess.Popen[bytes] | None" = None

    def begin(self) -> "SharedApi":
        """Start it, where it is not up, while the caller goes on; return the share."""
        return self if self.keeper.alive() else replace(self, begun=self.keeper.start())

    def give_up(self) -> None:
        """Need it no longer, before it was `up`; does not wait for its end."""
        os.close(self.shared)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Have it up for the block; it ends with the last one who needs it.

        Raises:
            ServiceError: it does not start; with the end of its log.
        """
        try:
            self.keeper.ensure(self.service.answers, self.begun)
            yield
        finally:
            self.keeper.release(self.shared)


def share_api() -> SharedApi:
    """Return a share of the home's API: its address is settled, whether it is up or not."""
    keeper = api_keeper()
    with _settling(keeper):
        shared = keeper.open_lock("users")
        if not keeper.alive() and lock(shared):  # nobody has an address yet
            write_atomic(_port_file(keeper), str(free_port()).encode())
        lock(shared, shared=True, wait_s=FOREVER)
        return SharedApi(keeper, _service(keeper), shared)


def api_keeper() -> Keeper:
    """Return how the runs of this home share Prefect's API."""
    state = Path(os.environ.get("PREFECT_HOME", home() / "prefect"))  # who sets this has a database of their own
    here = state / "shared" / host_name()  # its address means nothing on another host with the same home
    return Keeper("Prefect's server", "deployments.services.shared_api", here, _NAME, max_starts=1)


@contextmanager
def _settling(keeper: Keeper) -> Iterator[None]:
    """Be the only process that reads or writes the port for the block."""
    fd = keeper.open_lock("port")
    try:
        lock(fd, wait_s=FOREVER)
        yield
    finally:
        os.close(fd)


def _port_file(keeper: Keeper) -> Path:
    return keeper.folder / "port"


def _service(keeper: Keeper) -> Service:
    return replace(prefect_service(int(_port_file(keeper).read_text()), ui=False), name=_NAME)


def main() -> None:
    """Run the server until nobody needs it; exit with 1 if it ended before, or cannot be started."""
    keeper = api_keeper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with keeper.sole() as sole:
        if not sole:
            return
        with _settling(keeper):  # from here on all commands use this server's port
            service = _service(keeper)
        try:
            with database_up(make=False) as database:
                service = replace(service, env=service.env | database.settings)
                for _ in range(_MAX_STARTS):
                    check_port(service.port, service.name)
                    process = spawn(service)
                    try:
                        if keeper.wait_for_users(process):
                            return
                    finally:
                        stop(process)
        except TrainyardError as exc:
            sys.exit(f"error: {exc}")
        sys.exit(1)


if __name__ == "__main__":
    main()
