"""Makes the terminal on its standard input its own, then becomes a command.

`python -m gpu_pools.process.own_terminal COMMAND ...`. A shell without a terminal of its own has no job control, and
who closes that terminal tells the shell and its jobs so (SIGHUP).
"""

import fcntl
import os
import sys
import termios


def main() -> None:
    """Begin a session on the terminal, and become the command."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
