"""Runs a command whose output goes to the terminal unchanged, and line by line to a log."""

import errno
import os
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from gpu_pools.stopping import asked
from tasks.base.startup import module_command
from tasks.programs.terminals import copy_size, write_all

_GRACE_S = 10.0  # for a command that was told to end; the run's slot is wanted
_LOOK_S = 0.2
_CHUNK = 65536
_LONGEST_LINE = 2000  # characters
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")

Say = Callable[[str], None]


class Lines:
    """Cuts what is printed into lines of plain text; of a bar that is drawn again and again the last state counts."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was printed next."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._tell(line)
        if len(self._rest) > _CHUNK:  # a bar without an end of line
            self._rest = self._rest.rpartition(b"\r")[2][-_CHUNK:]

    def end(self) -> None:
        """Take the last line, which may lack its end."""
        self._tell(self._rest)

    def _tell(self, line: bytes) -> None:
        text = _CONTROL.sub("", line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]).rstrip()
        if text:
            self._say(text[:_LONGEST_LINE])


class _Stream(threading.Thread):
    """Copies what a command prints to where this process prints, to a file and to lines, until its end.

    Args:
        target: 1 or 2: standard output or error of this process.
        file: gets the bytes.
        say: gets the lines.
    """

    def __init__(self, target: int, file: BinaryIO, say: Say) -> None:
        super().__init__(name=f"output-{target}", daemon=True)
        self._target, self._file, self._lines = target, file, Lines(say)
        self._size = b""
        self.is_terminal = os.isatty(target)
        self._source, self.childs_end = _terminal() if self.is_terminal else os.pipe()

    def run(self) -> None:
        """Copy to the end; where nobody reads here any more, the command finds that out as it would without us."""
        try:
            while (data := self._read()) and write_all(self._target, data):
                self._file.write(data)
                self._lines.feed(data)
        finally:
            os.close(self._source)
            self._lines.end()

    def _read(self) -> bytes:
        while not select.select([self._source], [], [], _LOOK_S)[0]:
            self._follow_size()
        try:
            return os.read(self._source, _CHUNK)
        except OSError as exc:
            if exc.errno != errno.EIO:  # how a terminal says that the last one has closed it
                raise
            return b""

    def _follow_size(self) -> None:
        """Give the command's terminal the size of ours."""
        if self.is_terminal:
            self._size = copy_size(self._target, self._source, self._size)

    def begin(self) -> None:
        """Start to copy, the command being started."""
        os.close(self.childs_end)
        self.start()


def _terminal() -> tuple[int, int]:
    """Return both ends of a terminal that changes nothing: the one that people look at does what is to be done."""
    ours, childs = os.openpty()
    modes = termios.tcgetattr(childs)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(childs, termios.TCSANOW, modes)
    return ours, childs


def run_attended(
    words: Sequence[str], environment: Mapping[str, str], locks: Sequence[int], file: BinaryIO, say: Say
) -> int:
    """Run a command to its end, and to the end of all that it started; return its exit code, 128 + N for a signal.

    Its standard input is this process's, so Ctrl-C reaches it as it always does; its output is a terminal where this
    process's is one. It is killed when this process dies.

    Args:
        words: of the command; the program is looked for in PATH.
        environment: all of its variables.
        locks: open files that are kept open until the command and its children are gone.
        file: gets what it prints, unbuffered.
        say: gets it line by line.
    """
    out = _Stream(1, file, say)
    err = out if out.is_terminal and os.isatty(2) else _Stream(2, file, say)
    streams = [out] if err is out else [out, err]
    for stream in streams:
        stream._follow_size()
    command = module_command("gpu_pools.process.tether", "--attended", *words)
    with subprocess.Popen(
        command, env=environment, pass_fds=locks, stdout=out.childs_end, stderr=err.childs_end
    ) as keeper:
        for stream in streams:
            stream.begin()
        code = _wait(keeper)
    for stream in streams:
        stream.join()
    return code


def _wait(keeper: "subprocess.Popen[bytes]") -> int:
    """Return the exit code; a signal to this process is handed on once, and SIGTERM and SIGHUP leave 10 s."""
    deadline = None
    while True:
        try:
            return keeper.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            told = asked()
        if told is not None and deadline is None:
            is_polite = told == signal.SIGINT
            keeper.send_signal(signal.SIGINT if is_polite else signal.SIGUSR1)
            deadline = float("inf") if is_polite else time.monotonic() + _GRACE_S
        elif deadline is not None and time.monotonic() > deadline:
            keeper.terminate()
