"""Shows the yard in the terminal until a key ends it, and leaves the terminal as it was."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.live import Live

from deployments.cli.terminal.tables import console
from deployments.watching.picture import EVERY_S, Asker, ServerWatch, picture
from deployments.watching.screen import draw
from deployments.watching.shared_answers import SharedAnswers

_END = (b"q", b"Q", b"\x1b", b"\x04")  # q, Escape, Ctrl-D; Ctrl-C comes as a signal
_FIRST_S = 0.3  # the server's first answer, if it comes as soon as that, is in the first picture


def show_once() -> None:
    """Print one picture."""
    console().print(draw(picture(Asker()())))


def follow() -> None:
    """Show pictures, each in the place of the one before, until q or Ctrl-C."""
    out = console()
    with (
        ServerWatch(SharedAnswers(Asker())) as server,
        _keys() as keys,
        Live(console=out, screen=True, auto_refresh=False) as live,
    ):
        pause_s = _FIRST_S
        while True:
            live.update(draw(picture(server.last)), refresh=True)
            if _asked_to_end(keys, pause_s):
                return
            pause_s = EVERY_S


def _asked_to_end(keys: int | None, seconds: float) -> bool:
    """Wait so long; return whether a key came that ends it. Other keys end nothing, and do not speed it up."""
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        if keys is None:
            time.sleep(left_s)
        elif select.select([keys], [], [], left_s)[0]:
            typed = os.read(keys, 1)
            if typed in _END or not typed:
                return True
    return False


@contextmanager
def _keys() -> Iterator[int | None]:
    """Yield what keys are read from one by one, without showing them; None where nobody can type.

    Signals that would end the process at once end the block instead: the terminal is left as it was.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    fd = sys.stdin.fileno() if sys.stdin.isatty() else None
    mode = None if fd is None else termios.tcgetattr(fd)
    try:
        if fd is not None:
            tty.setcbreak(fd)
        yield fd
    except KeyboardInterrupt:
        pass  # Ctrl-C is one of the ways to end it
    finally:
        if fd is not None and mode is not None:
            termios.tcsetattr(fd, termios.TCSADRAIN, mode)
        for number, handler in before.items():
            signal.signal(number, handler)
