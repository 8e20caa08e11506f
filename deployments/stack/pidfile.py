"""Makes sure that one process keeps the stack of a home up, and finds it again."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from deployments.stack.stack import services_file, stack_record
from tasks.base.errors import ConfigError, StorageError
from tasks.base.file_locks import file_lock
from tasks.base.processes import has_variable, identity, others
from tasks.base.servers.alive import pid_file, read_pid, supervisor
from tasks.base.workspace import home, write_json

MARK = "TRAINYARD_STACK"
"""Environment variable of the servers of a stack: names its home, so that what a killed one left is found."""

Say = Callable[[str], None]


@contextmanager
def only_one(say: Say) -> Iterator[None]:
    """Be the one supervisor of this home for the block; what a killed one has left is put away, and said.

    Raises:
        ConfigError: there is one.
    """
    refuse_second()
    with file_lock(home() / "yard.lock", "the stack"):
        _put_away(say)
        write_json(pid_file(), {"pid": os.getpid(), "created": identity(os.getpid())})
        try:
            yield
        finally:
            services_file().unlink(missing_ok=True)
            pid_file().unlink(missing_ok=True)


def refuse_second() -> None:
    """Look for a stack of this home.

    Raises:
        ConfigError: there is one.
    """
    pid = supervisor()
    if pid is None:
        return
    try:
        record = stack_record()
    except StorageError:
        record = {}
    if not record:
        log = home() / "logs" / "yard.log"
        raise ConfigError(f"the services are being started or stopped by process {pid}; its log: {log}")
    urls = f"{record['prefect']}, {record['mlflow']}"
    raise ConfigError(f"the services are up already: {urls} (process {pid}; `yard down` ends it)")


def _put_away(say: Say) -> None:
    if pid_file().exists():
        found = read_pid()
        if found is None:
            why = "which cannot be read"
        elif identity(found[0]) is None:
            why = f"of process {found[0]}, which is gone"
        else:
            why = f"of process {found[0]}, a number that another program has now"
        say(f"removed a stale {pid_file()} {why}")
    services_file().unlink(missing_ok=True)
    if n_left := _end_left_overs():
        say(f"ended {n_left} processes that a killed stack had left")


def _end_left_overs() -> int:
    n_ended = 0
    for pid in others():
        if has_variable(pid, MARK, str(home())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                n_ended += 1
    return n_ended
