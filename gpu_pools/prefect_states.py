"""Makes Prefect report the true state of runs that are interrupted.

Prefect's engine calls a run Crashed that was cancelled, ran out of time or was stopped with Ctrl-C, and tells whoever
watches its events. Here, who asked for the end says what it is.
"""

import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import flow_engine
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.flow_engine import FlowRunEngine
from prefect.states import Cancelled, Cancelling, Failed
from prefect.task_engine import SyncTaskRunEngine

from gpu_pools.names import GIVEN_BACK_LABEL
from gpu_pools.stopping import asked, look
from tasks.base.errors import Interrupted, StageError

_Engine = Any  # Prefect's types do not foresee that a method is replaced
_FLOWS: _Engine = FlowRunEngine
_STEPS: _Engine = SyncTaskRunEngine

_flow_crash = _FLOWS.handle_crash
_step_crash = _STEPS.handle_crash
_flow_fails = _FLOWS.handle_exception
_step_fails = _STEPS.handle_exception
_flow_times_out = _FLOWS.handle_timeout
_step_times_out = _STEPS.handle_timeout
_step_begins = _STEPS.call_task_fn
_ENGINES: _Engine = flow_engine
_suspension = _ENGINES.observe_flow_run_suspension

_SUSPENSION_AFTER_S = 2.0
_OF_STAGES: dict[str, Callable[[str], State[Any]]] = {
    "TimedOut": lambda text: Failed(name="TimedOut", message=text),
    "Cancelled": lambda text: Cancelled(message=text),
}
"""A pipeline whose stage ended so has not failed: it ends so, too."""


def leave_to_worker() -> None:
    """From now on the worker alone says how a run of this process ended: only it knows whether the run goes on."""

    def say_nothing(engine: _Engine, exc: BaseException) -> None:
        if isinstance(exc, SystemExit):
            engine.logger.error("the flow has ended its process: SystemExit(%s)", exc.code)
        if engine.flow_run is not None:  # for the last line of its log, not for the server
            engine.flow_run.state = Cancelling(message="interrupted; the worker says what becomes of the run")
        engine._raised = exc

    _replace(say_nothing)


def call_cancelled(timed_out: Callable[[], str], advice: str) -> None:
    """From now on a run of this process that a person interrupts is Cancelled; nobody else looks after it.

    Args:
        timed_out: returns the sentence to say where it was not a person but its time limit; empty: it was a person.
        advice: follows who stopped it.
    """

    def say(engine: _Engine, exc: BaseException) -> None:
        if isinstance(exc, SystemExit):
            _flow_crash(engine, exc)
            return
        if text := timed_out():  # Prefect's own state for that: its type is FAILED
            _say(engine, Failed(name="TimedOut", message=text), exc)
            return
        told = asked()
        by_term = told == signal.SIGTERM or isinstance(exc, TerminationSignal)
        if by_term and (text := _given_back(engine)):
            _say(engine, Cancelled(message=text), exc)
            return
        how = "SIGTERM" if by_term else "a closed terminal" if told == signal.SIGHUP else "Ctrl-C"
        _say(engine, Cancelled(message=f"stopped by {how}{advice}"), exc)

    _replace(say)


def watch_for_suspension_later() -> None:
    """From now on a run of this process begins and ends without waiting for the watch whether somebody suspends it.

    Prefect opens a connection of its own for that, and waits for it: at each end of a run a tenth of a second and more.
    """

    @contextmanager
    def watched(*args: Any, **options: Any) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            if not over.wait(_SUSPENSION_AFTER_S):
                with _suspension(*args, **options):  # begins with a look at the run's state
                    over.wait()

        context = contextvars.copy_context()
        threading.Thread(target=lambda: context.run(watch), name="suspension", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    _ENGINES.observe_flow_run_suspension = watched


def _replace(flow_ends: Callable[[_Engine, BaseException], None]) -> None:
    def step_ends(engine: _Engine, exc: BaseException) -> None:
        if isinstance(exc, SystemExit):
            _step_crash(engine, exc)
        else:
            _say(engine, Cancelled(message="its run was interrupted"), exc)

    def after_a_signal(engine: _Engine, exc: Exception) -> None:
        """Take an error that came of the end for the end: a child that the same Ctrl-C reached, a disk that is full."""
        if asked() is not None:
            engine.logger.warning("while it was stopped: %s: %s", type(exc).__name__, exc)
            raise Interrupted("an error came while the run was stopped") from exc

    def flow_fails(engine: _Engine, exc: Exception, *args: Any, **options: Any) -> Any:
        after_a_signal(engine, exc)
        if isinstance(exc, StageError) and exc.state in _OF_STAGES:
            engine.logger.error("%s", exc)
            engine.set_state(_OF_STAGES[exc.state](str(exc)))
            engine._raised = exc
            return engine.state
        return _flow_fails(engine, exc, *args, **options)

    def step_fails(engine: _Engine, exc: Exception) -> None:
        after_a_signal(engine, exc)
        _step_fails(engine, exc)

    def flow_times_out(engine: _Engine, exc: TimeoutError) -> None:
        after_a_signal(engine, exc)
        _flow_times_out(engine, exc)

    def step_times_out(engine: _Engine, exc: TimeoutError) -> None:
        after_a_signal(engine, exc)
        _step_times_out(engine, exc)

    def step_begins(engine: _Engine, *args: Any) -> Any:
        look()  # between two steps
        return _step_begins(engine, *args)

    # Prefect has no hook for it: a state has been told when the first one runs.
    _FLOWS.handle_crash = flow_ends
    _STEPS.handle_crash = step_ends
    _FLOWS.handle_exception = flow_fails
    _STEPS.handle_exception = step_fails
    _FLOWS.handle_timeout = flow_times_out
    _STEPS.handle_timeout = step_times_out
    _STEPS.call_task_fn = step_begins


def _given_back(engine: _Engine) -> str:
    """Return why a worker told a run in a terminal to end; empty: none did, or the server is away."""
    try:
        return str(engine.client.read_flow_run(engine.flow_run.id).labels.get(GIVEN_BACK_LABEL, ""))
    except (httpx.HTTPError, ObjectNotFound):
        return ""


def _say(engine: _Engine, state: State[Any], exc: BaseException) -> None:
    engine.set_state(state, force=True)
    engine._raised = exc
