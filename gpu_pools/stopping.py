"""The request to stop, set by a signal and read by loops.

Nothing is raised where the signal arrives: that may be inside a library, which would give the exception other words or
leave a file half written. The run works in a thread of its own, its process's first thread takes the signals; loops
look between two of their pieces, and whoever waits is woken.

A cancel comes this way: `gpu_pools.worker.monitor.run_monitor` sees it in Prefect, `end_requests` beside it asks the
process by `gpu_pools.process.run_process.interrupt`, `take` here notes the signal, and the run sees it by `look`, a
training by `tasks.run.stop_request.stop_asked`. A run that is to go on later is told by a file instead, in the same
module.
"""

import contextvars
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

from tasks.base.errors import Interrupted

R = TypeVar("R")

_AGAIN_S = 0.7  # some commands send a signal twice, to a process and to its group; a person is slower


class _Wish:
    """Set by a signal, once for the whole process."""

    def __init__(self) -> None:
        self.signum: signal.Signals | None = None
        self.since = 0.0
        self.came = threading.Event()


_wish = _Wish()


def asked() -> signal.Signals | None:
    """Return the signal that asked this process's run to end, None where none came."""
    return _wish.signum


def never() -> bool:
    """Return False: nobody asks to stop."""
    return False


def look() -> None:
    """Say, between two pieces of work, whether to go on.

    Raises:
        Interrupted: a signal has come.
    """
    if _wish.signum is not None:
        raise Interrupted(f"stopped by {_wish.signum.name}")


def pause(seconds: float) -> None:
    """Wait.

    Raises:
        Interrupted: a signal has come, or comes meanwhile.
    """
    _wish.came.wait(seconds)
    look()


def obey(work: Callable[[], R], *, on_signal: Callable[[], None] | None = None) -> R:
    """Return what `work` returns, while SIGTERM, SIGINT (Ctrl-C) and SIGHUP only set the wish that it looks for.

    Args:
        work: is done in a thread of its own, with this one's context.
        on_signal: is called at the first signal; with it, a second Ctrl-C waits for nobody.

    Raises:
        Interrupted, or what else `work` raises.
        KeyboardInterrupt: the second Ctrl-C; the work is left where it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()  # signals are taken by another thread
    done: Future[R] = Future()
    context = contextvars.copy_context()

    def do() -> None:
        try:
            done.set_result(context.run(work))
        except BaseException as exc:  # raised again by the thread that waits
            done.set_exception(exc)

    def take(signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if _wish.signum is None:
            _wish.signum, _wish.since = signal.Signals(signum), now
            _wish.came.set()
            if on_signal is not None:
                on_signal()
        elif on_signal is not None and signum == signal.SIGINT and now - _wish.since > _AGAIN_S:
            raise KeyboardInterrupt  # this thread does nothing but wait

    # A terminal that is closed ends its runs, unless they were started to outlive it (nohup).
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL else []
    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT, *hangup)}
    try:
        threading.Thread(target=do, name="run", daemon=True).start()
        return done.result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
