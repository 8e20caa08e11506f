"""Brings and sends folders for the worker, in a process of its own: `python -m tasks.store.service`.

The worker asks by lines of JSON: {"key": ..., "runs": [...], "data": [...], "digests": [...]} to bring, and
{"key": ..., "send": RUN, "writer": RUN} to send. It is answered by lines with the key: "far" while bytes move, "done"
at the end, or "fault" with a sentence, and "final" where no other try can help.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tasks.base.errors import ConfigError, TrainyardError
from tasks.store.arrivals import bring_needs, run_folder
from tasks.store.objects import Objects
from tasks.store.places import Needs

_N_AT_ONCE = 2
_PATIENCE_S = 10.0  # the worker asks again
_TOLD_EVERY_S = 1.0

_writing = threading.Lock()


def _say(**said: Any) -> None:
    with _writing:
        print(json.dumps(said), flush=True)


class _Far:
    """Tells how far one request is, once a second at most."""

    def __init__(self, key: str) -> None:
        self._key, self._said = key, float("-inf")

    def tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if total and now - self._said >= _TOLD_EVERY_S:
            self._said = now
            _say(key=self._key, far=[what, done, total])


def answer(objects: Objects, asked: dict[str, Any]) -> None:
    """Do what a line asks for, and say how it ended."""
    key, far = str(asked["key"]), _Far(str(asked["key"]))
    try:
        if run_id := asked.get("send"):
            told = partial(far.tell, f"files of run {run_id}")
            run_folder(objects, str(run_id)).send(str(asked["writer"]), progress=told)
        else:
            wanted = Needs(*(frozenset(map(str, asked[name])) for name in ("runs", "data", "digests")))
            bring_needs(objects, wanted, far.tell)
    except TrainyardError as exc:
        _say(key=key, fault=str(exc), final=isinstance(exc, ConfigError))
    except BaseException as exc:
        _say(key=key, fault=f"{type(exc).__name__}: {exc}", final=False)
        raise
    else:
        _say(key=key, done=True)


def main() -> None:
    """Answer until nobody asks any more."""
    with Objects.of_environment(patience_s=_PATIENCE_S) as objects, ThreadPoolExecutor(_N_AT_ONCE) as pool:
        for line in sys.stdin:
            pool.submit(answer, objects, json.loads(line))
        objects.close()  # the worker is gone


if __name__ == "__main__":
    main()
