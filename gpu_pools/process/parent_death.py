"""Runs one process that ends with its parent, however the parent ends; what it has started may stay.

`python -m gpu_pools.process.parent_death COMMAND ...`.
Options before the command: `--signal=KILL` is what it gets then, instead of TERM; `--user=UID:GID` is who it runs as.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for a signal at the parent's death, then become the command."""
    parent = os.getppid()
    command = sys.argv[1:]
    options = {}
    while command and command[0].startswith("--"):
        name, _, value = command.pop(0).partition("=")
        options[name] = value
    if user := options.get("--user"):
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)  # before the next line: the kernel forgets the signal when the user changes
    wanted = signal.Signals[f"SIG{options.get('--signal', 'TERM')}"]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, wanted) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # the parent died before the kernel was asked
        sys.exit(1)
    # Whoever waits for signals by hand blocks them, and what it starts inherits that.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; `yes | head` ends by the first
        signal.signal(ignored, signal.SIG_DFL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
