"""Builds gsplat's kernels by importing it: `python -m deployments.machine.kernel_build`.

All that it starts ends when its standard input does, so when whoever started it is gone, however.
"""

import importlib
import os
import signal
import sys
import threading


def main() -> None:
    """Build; what the compilers say goes to standard output, and the last line says what is wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        backend = importlib.import_module("gsplat.cuda._backend")
    except (ImportError, OSError, RuntimeError) as exc:
        # The compilers' own words are above; a traceback through gsplat would push them out of sight.
        sys.exit(f"{type(exc).__name__}: {str(exc).strip() or 'no reason given'}")
    if backend._C is None:
        sys.exit("gsplat found no nvcc to build its kernels with")


def _end_with_parent() -> None:
    # Not through sys.stdin: the interpreter dies at its end if a thread is in the middle of that.
    while os.read(0, 1):
        continue
    # Not SIGKILL: ninja has each compiler in a group of its own, and ends them when it is asked to end.
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main()
