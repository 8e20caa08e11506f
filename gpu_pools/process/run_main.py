"""The process of a run, started before a run needs it: `python -m gpu_pools.process.run_main FD`.

Imports take seconds, a slot that just became free should not wait for them: the worker keeps one such process ready
and hands it its run over a socket, with the kernel locks that the run holds from then on.
"""

import atexit
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any
from uuid import UUID

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.context import SyncClientContext
from prefect.engine import handle_engine_signals
from prefect.events.worker import EventsWorker
from prefect.exceptions import CancelledRun
from prefect.flow_engine import load_flow, run_flow
from prefect.logging.handlers import APILogWorker
from prefect.logging.loggers import flow_run_logger
from prefect.states import Failed

from gpu_pools.prefect_states import leave_to_worker, watch_for_suspension_later
from gpu_pools.process.run_files import with_files
from gpu_pools.process.run_setup import EXIT_SUPERSEDED
from gpu_pools.stopping import asked, obey
from tasks.base.errors import Interrupted, TrainyardError

PATIENCE_S = 300  # with a server that is away while a run begins
_LAST_WORDS_S = 2.0  # for log lines and events under way when the process is asked to end
_MOST_LOCKS = 253  # the kernel sends no more at once (SCM_MAX_FD); one for each device, and the run's
HEADER = 8  # bytes: the length of what follows, big-endian


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """Wait for a run; return what is known of it, or None where the worker is gone.

    The locks that come with it stay open, and are inherited by every child that is forked.
    """
    header, fds, _, _ = socket.recv_fds(channel, HEADER, _MOST_LOCKS)
    if not header:
        return None
    for fd in fds:
        os.set_inheritable(fd, True)
    left = int.from_bytes(header, "big")
    parts = []
    while left and (part := channel.recv(left)):
        parts.append(part)
        left -= len(part)
    return None if left else dict(json.loads(b"".join(parts)))


def become(job: dict[str, Any]) -> None:
    """Take on the environment, the folder and the output of the run."""
    os.environ.clear()
    os.environ.update(job["env"])
    tempfile.tempdir = None  # remembered from before, perhaps
    os.chdir(job["folder"])
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)


def run(run_id: UUID, claim: UUID, server: SyncClientContext) -> None:
    """Run the flow, if the run still is in the state in which the worker claimed it.

    Args:
        run_id: of the run.
        claim: the id of that state.
        server: one connection for all that is asked and told here.
    """
    client = server.client
    with handle_engine_signals(run_id), client:
        flow_run = _when_the_server_answers(lambda: client.read_flow_run(run_id))
        # Between the claim and this line a person may have cancelled the run, or a worker that was stopped for a
        # while may have written over the claim: two processes of one run must not be.
        if flow_run.state is None or flow_run.state.id != claim:
            found = flow_run.state.name if flow_run.state else "no state"
            print(f"run {run_id} is not claimed for this process any more ({found})", file=sys.stderr)
            sys.exit(EXIT_SUPERSEDED)
        log: Any = flow_run_logger(flow_run=flow_run)
        try:
            flow = load_flow(flow_run)
        except Exception as exc:  # a flow's import may raise anything; raised again after the run has been told
            log.exception("cannot load the flow")
            client.set_flow_run_state(run_id, Failed(message=f"cannot load the flow: {exc}"))
            raise
        try:
            flow, flow_run = with_files(flow, flow_run)
        except TrainyardError as exc:
            log.error("%s", exc)
            client.set_flow_run_state(run_id, Failed(message=str(exc)))
            raise
        leave_to_worker()
        watch_for_suspension_later()
        try:
            with server:
                obey(lambda: run_flow(flow, flow_run=flow_run))
        except Interrupted:
            _end(asked() or signal.SIGTERM)
        except CancelledRun as exc:  # it has given itself that state
            log.info("the flow has ended before its end: %s", exc)
        except Exception:  # a flow may raise anything; one that was interrupted reports nothing
            log.exception("the flow has ended with an error")
            raise


def _when_the_server_answers(ask: Callable[[], FlowRun]) -> FlowRun:
    # Prefect's client is patient once it has had an answer, but not with its first question.
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _end(signum: int, frame: FrameType | None = None) -> None:
    """Send what is still to be sent, then end by the signal that came."""
    signal.signal(signum, signal.SIG_DFL)
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_LAST_WORDS_S)
    os.kill(os.getpid(), signum)


def leave() -> None:
    """End this process as the interpreter does, but for taking apart every module and object first.

    That takes a third of a second, in which nobody else gets the slot.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()  # sends logs and events, ends children, removes temporary files
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def main() -> None:
    """Wait for a run, and run it."""
    server = SyncClientContext()  # reads the system's certificates, which takes a moment
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        job = receive(channel)
    if job is not None:
        become(job)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        run(UUID(job["run_id"]), UUID(job["claim"]), server)


if __name__ == "__main__":
    main()
    leave()
