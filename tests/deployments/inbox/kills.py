"""Kills what changes files before each change it makes."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

CHANGES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"),
    *("os.chmod", "os.truncate", "tempfile.mkstemp"),
}


def child(work: Callable[[], None], kill_at: int, *also: str) -> int:
    """Do work in a fork that is killed before its change number `kill_at`, 0: never; return its wait status.

    Args:
        work: to do.
        kill_at: counts changes of files, files opened for writing, and audit events named in `also`.
        also: names of audit events.
    """
    pid = os.fork()
    if not pid:
        try:
            if kill_at:
                _kill_before(kill_at, CHANGES | set(also))
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def _kill_before(number: int, events: set[str]) -> None:
    n = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal n
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event in events or writes:
            n += 1
            if n == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
