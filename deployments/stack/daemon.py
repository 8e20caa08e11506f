"""The stack in the background, as `yard up --detach` starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from deployments.lab.plan import LabPlan
from deployments.services.service import ServiceError, log_file, tail
from deployments.stack.pidfile import Say, refuse_second
from deployments.stack.supervisor import Plan, Planned, Supervisor
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.home import make_home
from tasks.base.processes import identity
from tasks.base.servers.alive import supervisor
from tasks.base.startup import module_command
from tasks.base.workspace import home, storage_errors

ENDED = "all has ended"
"""The last line of the log, and the last word of whoever waits for it."""


def log_path() -> Path:
    """Return the log of the supervisor."""
    return log_file("yard")


def log_line(text: str) -> None:
    """Add to the log of the supervisor; a disk that is full does not end the stack."""
    with suppress(OSError):
        log_path().parent.mkdir(parents=True, exist_ok=True)
        with log_path().open("a") as log:
            log.write(f"{datetime.now().isoformat(' ', 'seconds')} {text}\n")


def start_detached(plan: Planned, say: Say) -> None:
    """Start a stack that outlives this command and its terminal; return when all of it works.

    Args:
        plan: what it is made of.
        say: is told what happens until then.

    Raises:
        ConfigError: there is a stack.
        ServiceError: it does not start; with its reason.
        StorageError: its log cannot be written.
    """
    refuse_second()
    make_home()
    read, write = os.pipe()
    try:
        process = _spawn(plan, write)
    finally:
        os.close(write)
    with os.fdopen(read) as reports:
        try:
            for line in reports:
                (what, text), *_ = json.loads(line).items()
                if what == "ready":
                    return
                if what == "error":
                    process.wait()
                    raise ServiceError(text)
                say(text)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    raise ServiceError(f"the supervisor ended with code {process.wait()}; the end of {log_path()}:\n{tail(log_path())}")


def _spawn(plan: Planned, report_fd: int) -> "subprocess.Popen[bytes]":
    with storage_errors(log_path()):
        log_path().parent.mkdir(parents=True, exist_ok=True)
        with log_path().open("ab") as log:
            return subprocess.Popen(
                module_command("deployments.stack.daemon", str(report_fd), *plan.words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[report_fd],
                start_new_session=True,
                cwd=home(),
                env={**os.environ, "TRAINYARD_HOME": str(home())},
            )


def stop_stack(say: Say, *, now: bool) -> bool:
    """End the stack of this home and wait for that; return whether there was one.

    Args:
        say: is told what it waits for.
        now: stop its runs at their next checkpoint, instead of waiting for their end.

    Raises:
        ConfigError: it is another user's.
    """
    pid = supervisor()
    if pid is None:
        return False
    created = identity(pid)
    size = log_path().stat().st_size if log_path().exists() else 0
    try:
        os.kill(pid, signal.SIGUSR1 if now else signal.SIGTERM)
    except PermissionError as exc:
        raise ConfigError(f"the stack of {home()} (process {pid}) belongs to another user") from exc
    with suppress(FileNotFoundError), log_path().open() as log:
        log.seek(size)
        while True:
            lives = identity(pid) == created
            for line in log:
                text = line.rstrip("\n").partition(" ")[2].partition(" ")[2]  # without day and time
                if text != ENDED:  # who waits says so
                    say(text)
            if not lives:
                break
            time.sleep(0.1)
    return True


def _plan(words: Sequence[str]) -> Planned:
    """Return the plan that was written as words."""
    kind, *values = words
    return Plan(*map(int, values)) if kind == "box" else LabPlan.of_words(values)


def main() -> None:
    """Keep a stack up, telling who started it how that goes until all works."""
    reports = os.fdopen(int(sys.argv[1]), "w")

    def report(what: str, text: str = "") -> None:
        if text:
            log_line(text)
        if not reports.closed:
            with suppress(BrokenPipeError):  # who started it has gone
                print(json.dumps({what: text}), file=reports, flush=True)

    def ready() -> None:
        log_line("all is up")
        report("ready")
        reports.close()

    try:
        Supervisor(_plan(sys.argv[2:]), lambda text: report("say", text)).run(ready)
    except TrainyardError as exc:
        report("error", str(exc))
        sys.exit(1)
    log_line(ENDED)


if __name__ == "__main__":
    main()
