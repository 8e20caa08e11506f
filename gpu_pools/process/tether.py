"""Runs a command that ends, with all that it started, when its parent does, however that ends.

`python -m gpu_pools.process.tether COMMAND ...`. `parent_death` ends one process; this one stays beside the command,
becomes the parent of what the command leaves behind, and kills it all.
With `--attended` before the command somebody sits at the terminal: a Ctrl-C is the command's own affair, SIGINT from
the parent alone is handed on (once, and not where the terminal has sent it to all), SIGUSR1 is handed on as SIGTERM.
"""

import ctypes
import os
import signal
import subprocess
import sys

import psutil

from gpu_pools.process.parent_death import PR_SET_PDEATHSIG
from tasks.base.startup import module_command

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Start the command, wait for its end or the parent's, and kill what is left."""
    parent = os.getppid()
    command = sys.argv[1:]
    attended = command[:1] == ["--attended"]
    # Before anything is started: who comes between is heard by the wait below.
    waited = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, *([signal.SIGUSR1, signal.SIGHUP] if attended else [])}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    _ask_kernel(PR_SET_PDEATHSIG, signal.SIGTERM)
    _ask_kernel(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # the parent died before the kernel was asked
        sys.exit(1)
    # Killed itself, this process still takes the command with it.
    child = subprocess.Popen(module_command("gpu_pools.process.parent_death", "--signal=KILL", *command[attended:]))
    has_heard = False
    while child.poll() is None:
        came = signal.sigwaitinfo(waited)
        if came.si_signo == signal.SIGTERM or not (attended or came.si_signo == signal.SIGCHLD):
            break
        if came.si_signo == signal.SIGUSR1:
            child.send_signal(signal.SIGTERM)
        if came.si_signo == signal.SIGINT:
            if came.si_pid == parent and not has_heard:
                child.send_signal(signal.SIGINT)
            has_heard = True
    _kill_all()
    code = child.wait()
    sys.exit(code if code >= 0 else 128 - code)


def _ask_kernel(what: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(what, value) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({what}) failed")


def _kill_all() -> None:
    """Kill all descendants, again until there are none: who is killed may have started one more."""
    own = psutil.Process()
    while living := [child for child in own.children(recursive=True) if _lives(child)]:
        for child in living:
            _kill(child)
        psutil.wait_procs(living, timeout=0.1)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    main()
