"""Helpers of who stands between a program and the terminal that people look at."""

import fcntl
import os
import struct
import termios


def write_all(target: int, data: bytes) -> bool:
    """Write to an open file; return False where its other side is closed: the reader of a pipe has ended."""
    try:
        while data:
            data = data[os.write(target, data) :]
    except OSError:
        return False
    return True


def copy_size(source: int, target: int, known: bytes) -> bytes:
    """Give a terminal the size of another one, if that has changed; return the size, to be known the next time.

    Args:
        source, target: open terminals; nothing is done where one is none, or closed.
        known: as returned before; empty: none.
    """
    try:
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
        if size != known:
            fcntl.ioctl(target, termios.TIOCSWINSZ, size)
    except OSError:
        return known
    return size
