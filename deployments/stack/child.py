"""A program of the stack, started again when it dies."""

import signal
import subprocess
import time
from collections.abc import Sequence

from deployments.services.service import Program, kill_session, log_file, spawn, stop, tail
from deployments.services.shared_postgres import postgres_keeper

PAUSES_S: Sequence[float] = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Before a program is started again, by how often it has died in a row."""

PATIENCE_S = 120.0
"""With a program that lives and does not answer; a machine that trains makes it slow, not that slow."""

_LOOK_EVERY_S = 10.0
_STEADY_S = 60.0
"""A program that lived so long has not died in a row."""


class Child:
    """A program that is to run for as long as the stack is up.

    Args:
        program: what it is.
        patience_s: it may live without an answer; then it is killed.

    Attributes:
        process: of the moment; None before the first start.
    """

    def __init__(self, program: Program, patience_s: float = PATIENCE_S) -> None:
        self.program = program
        self._patience_s = patience_s
        self._heard = self._looked = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._log_size = 0
        self._started = 0.0
        self._answered = False
        self._n_deaths = 0
        self._retry_at: float | None = None

    def start(self) -> None:
        """Start it, without waiting for it to work.

        Raises:
            StorageError: its log cannot be written.
        """
        log = self.program.log
        before = log.stat().st_size if log.exists() else 0
        self.process = spawn(self.program)
        self._log_size = before if log.stat().st_size >= before else 0  # otherwise a new file was begun
        self._started, self._answered, self._retry_at = time.monotonic(), False, None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    def answers(self) -> bool:
        """Return whether it has worked since it was started."""
        self._answered = self._answered or self.program.answers(self._log_size)
        return self._answered

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process, if it lives."""
        if self.process is not None:
            self.process.send_signal(number)

    def stop(self) -> None:
        """End it, in order if it can."""
        if self.process is not None:
            stop(self.process)

    def tend(self) -> str | None:
        """Start it again if it has died, sooner or later; return what is to be said about it now, if anything."""
        now = time.monotonic()
        if self._retry_at is not None:
            if now >= self._retry_at:
                self.start()
            return None
        if self.process is not None and self.code is not None:
            return self._bury(self.process.pid, self.code, now)
        if not self._answered and self.answers():
            self._heard = now
            return f"{self.program.name} works again after {now - self._started:.0f} s"
        return self._listen(now) if self._answered else None

    def _listen(self, now: float) -> str | None:
        """Kill a program that has worked and answers no longer: the next look finds it dead and starts it again."""
        if now - self._looked < min(_LOOK_EVERY_S, self._patience_s / 4):
            return None
        # Looked at seldom, as when this process was stopped for a while, it has not been silent for as long.
        gap, self._looked = now - self._looked, now
        if self.program.answers(self._log_size):
            self._heard = now
        elif gap > self._patience_s:
            self._heard = now
        elif now - self._heard > self._patience_s:
            self.signal(signal.SIGKILL)
            return f"{self.program.name} has not answered for {now - self._heard:.0f} s; is killed"
        return None

    def _bury(self, pid: int, code: int, now: float) -> str:
        kill_session(pid)
        if now - self._started > _STEADY_S:
            self._n_deaths = 0
        pause = PAUSES_S[min(self._n_deaths, len(PAUSES_S) - 1)]
        self._n_deaths += 1
        self._retry_at = now + pause
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        when = f"in {pause:.0f} s" if pause else "now"
        log = self.program.log
        return f"{self.program.name} {how}; is started again {when}; the end of {log}:\n{tail(log, 5)}"


class KeptPostgres:
    """The home's PostgreSQL, whose keeper is perhaps not this process's child: another command may have started it."""

    def __init__(self) -> None:
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._died = float("-inf")
        self._n_deaths = 0

    def tend(self) -> str | None:
        """Start it again if it has died, sooner or later; return what is to be said about it now, if anything."""
        self._keepers = [keeper for keeper in self._keepers if keeper.poll() is None]  # otherwise they stay as zombies
        now = time.monotonic()
        if postgres_keeper().alive() or now < self._died + PAUSES_S[min(self._n_deaths, len(PAUSES_S) - 1)]:
            return None
        self._n_deaths = 1 if now - self._died > _STEADY_S else self._n_deaths + 1
        self._died = now
        self._keepers.append(postgres_keeper().start())
        return f"postgres has ended; is started again; its log: {log_file('postgres')}"
