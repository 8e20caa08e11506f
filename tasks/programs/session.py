"""Runs an interactive program on a terminal of its own until it ends, idles, or its time is over."""

import errno
import math
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from gpu_pools.placement.queues import duration_text
from gpu_pools.slots.activity import Activity, descendants
from gpu_pools.stopping import asked
from tasks.base.startup import module_command
from tasks.programs.terminals import copy_size, write_all

_LOOK_S = 0.2
_ACTIVITY_EVERY_S = 5.0  # at most; a tenth of the time for which a session may idle
_CHUNK = 65536
_WARNING_S = 300.0  # before the end, or a quarter of the time where that is less
_HANG_UP_S, _KILL_S = 5.0, 10.0  # after SIGTERM; a shell, which takes no SIGTERM, is hung up on at once
_END_OF_INPUT = b"\x04"


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a session ends that does not end by itself, seconds; None: never.

    Args:
        lasts: from its beginning on.
        idle: without use of a CPU, of the GPU and of the keyboard.
    """

    lasts: float | None
    idle: float | None


class SessionEnd:
    """Decides when a session ends, and warns before.

    Args:
        bounds: of the session.
        began: seconds, of the clock of `reason`.
    """

    def __init__(self, bounds: Bounds, began: float) -> None:
        self.bounds, self._began = bounds, began
        self._warned: set[str] = set()

    def reason(self, now: float, idle_s: float) -> str:
        """Return why the session is to end now; empty: it goes on."""
        for text, over, bound in self._clocks(now, idle_s):
            if over >= bound:
                return text
        return ""

    def warning(self, now: float, idle_s: float) -> str:
        """Return what to say to who sits there, once before each end; empty: nothing new."""
        for text, over, bound in self._clocks(now, idle_s):
            left = bound - over
            if left > min(_WARNING_S, bound / 4):
                self._warned.discard(text)  # used again: it is warned of anew
            elif text not in self._warned:
                self._warned.add(text)
                return f"ends in {duration_text(math.ceil(left))}: {text}"
        return ""

    def _clocks(self, now: float, idle_s: float) -> Iterator[tuple[str, float, float]]:
        if self.bounds.lasts is not None:
            yield f"its time of {duration_text(self.bounds.lasts)} is over", now - self._began, self.bounds.lasts
        if self.bounds.idle is not None:
            yield f"idle for {duration_text(self.bounds.idle)}", idle_s, self.bounds.idle


class _Terminal:
    """A terminal for a program, joined with the one, or the pipes, of this process.

    Args:
        used: is called when somebody types.
    """

    def __init__(self, used: Callable[[], None]) -> None:
        self._ours, self.childs_end = os.openpty()
        if os.isatty(0):  # the keys that delete and interrupt are those of who sits there
            termios.tcsetattr(self.childs_end, termios.TCSANOW, termios.tcgetattr(0))
        self._used, self._over = used, threading.Event()
        self._size = b""
        self._follow_size()
        self._threads = [
            threading.Thread(target=work, name=f"session-{work.__name__}", daemon=True)
            for work in (self._read, self._type)
        ]

    def begin(self) -> None:
        """Join both, the program being started."""
        os.close(self.childs_end)
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let what was printed last arrive, and take no more keys."""
        self._threads[0].join(2.0)  # nobody may read there any more
        self._over.set()
        self._threads[1].join(2.0)

    def hang_up(self) -> None:
        """Close the program's terminal, as who closes a window does."""
        self._over.set()
        self._threads[1].join(2.0)
        self._threads[0].join(2.0)
        with suppress(OSError):
            os.close(self._ours)

    def say(self, text: str) -> None:
        """Write a line of ours between those of the program."""
        with suppress(OSError):  # the terminal is gone
            os.write(1, f"\r\n\x1b[7m yard: {text} \x1b[0m\r\n".encode())

    def _read(self) -> None:
        while not self._over.is_set():
            self._follow_size()
            if not select.select([self._ours], [], [], _LOOK_S)[0]:
                continue
            try:
                data = os.read(self._ours, _CHUNK)
            except OSError as exc:
                if exc.errno != errno.EIO:  # how a terminal says that the last one has closed it
                    raise
                return
            if not write_all(1, data):
                return

    def _type(self) -> None:
        while not self._over.is_set():
            if not select.select([0], [], [], _LOOK_S)[0]:
                continue
            try:
                data = os.read(0, _CHUNK)
            except OSError:  # the terminal is gone
                return
            self._used()
            if not write_all(self._ours, data or _END_OF_INPUT) or not data:
                return

    def _follow_size(self) -> None:
        """Give the program's terminal the size of ours."""
        self._size = copy_size(1, self._ours, self._size)


@contextmanager
def _raw() -> Iterator[None]:
    """Hand every key to the program, Ctrl-C among them, and give the terminal back as it was."""
    if not os.isatty(0):
        yield
        return
    modes = termios.tcgetattr(0)
    sys.stdout.flush()
    tty.setraw(0)
    try:
        yield
    finally:
        with suppress(termios.error):  # closed
            termios.tcsetattr(0, termios.TCSADRAIN, modes)


def run_session(
    words: Sequence[str],
    environment: Mapping[str, str],
    locks: Sequence[int],
    bounds: Bounds,
    activity: Activity,
    *,
    is_shell: bool,
) -> tuple[int, str]:
    """Run an interactive program to its end, and to the end of all that it started.

    Args:
        words: of the command; the program is looked for in PATH.
        environment: all of its variables.
        locks: open files that are kept open until the command and its children are gone.
        bounds: when it has to end.
        activity: says for how long it computes nothing.
        is_shell: it takes no SIGTERM, and its terminal is closed at once where it is to end.

    Returns:
        Its exit code, 128 + N for a signal, and why it was ended; empty: it ended by itself.
    """
    terminal = _Terminal(activity.used)
    command = module_command(
        "gpu_pools.process.tether", "--attended", *module_command("gpu_pools.process.own_terminal", *words)
    )
    ends = (terminal.childs_end,) * 3
    with (
        _raw(),
        subprocess.Popen(
            command, env=environment, pass_fds=locks, stdin=ends[0], stdout=ends[1], stderr=ends[2]
        ) as keeper,
    ):
        terminal.begin()
        reason = _watch(keeper, terminal, SessionEnd(bounds, time.monotonic()), activity)
        if reason:
            _end(keeper, terminal, is_shell=is_shell)
        code = keeper.wait()
        terminal.end()
    return code, reason


def _watch(keeper: "subprocess.Popen[bytes]", terminal: _Terminal, end: SessionEnd, activity: Activity) -> str:
    """Wait for the end of a session; return why it is to be ended, empty where it has ended."""
    idle_s, looked_at = 0.0, float("-inf")
    every_s = min(_ACTIVITY_EVERY_S, (end.bounds.idle or math.inf) / 10)
    while True:
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(_LOOK_S)
            return ""
        now = time.monotonic()
        if (told := asked()) is not None:
            return f"stopped by {told.name}"
        if now - looked_at >= every_s:
            idle_s, looked_at = activity.idle_s(descendants(keeper.pid)), now
        if reason := end.reason(now, idle_s):
            terminal.say(f"the session ends: {reason}")
            return reason
        if warning := end.warning(now, idle_s):
            terminal.say(f"the session {warning}")


def _end(keeper: "subprocess.Popen[bytes]", terminal: _Terminal, *, is_shell: bool) -> None:
    """End a session in order: SIGTERM, then the closed terminal, then all is killed."""
    if not is_shell:
        keeper.send_signal(signal.SIGUSR1)
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(_HANG_UP_S)
            return
    terminal.hang_up()
    with suppress(subprocess.TimeoutExpired):
        keeper.wait(_KILL_S - (0 if is_shell else _HANG_UP_S))
        return
    keeper.terminate()
