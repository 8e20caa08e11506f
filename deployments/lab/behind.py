"""Runs what works behind Prefect's API, and ends when Redis was restarted: `python -m deployments.lab.behind`.

Prefect keeps in Redis when each of these services comes round again. What a Redis that died takes with it leaves some
of them marked as waiting in a stream that is gone: they would never run again, also not after a restart of Prefect. So
what is marked is removed before the start, which marks all of them anew.
"""

import os
import sys
import threading
import time
from typing import Any

from deployments.services import prefect_server

URL = "PREFECT_SERVER_DOCKET_URL"
"""Prefect's variable for that Redis."""

_NAME = "prefect"
"""Under which Prefect keeps them there."""

_LOOK_EVERY_S = 5.0


def main() -> None:
    """Serve until stopped, or until Redis is another one than at the start: who keeps this up starts it again."""
    import redis

    store = redis.Redis.from_url(os.environ[URL], socket_timeout=10, socket_connect_timeout=10)
    begun = _identity(store)
    forget(store)
    threading.Thread(target=_watch, args=(store, begun), daemon=True).start()
    sys.argv[1:] = ["server", "services", "start"]
    prefect_server.main()


def forget(store: Any) -> None:
    """Remove what is marked as waiting or under way.

    Args:
        store: a client of Redis.
    """
    marked = [key.decode().removeprefix(f"{_NAME}:runs:") for key in store.scan_iter(f"{_NAME}:runs:*")]
    kinds = ("runs:", "known:", "stream-id:", "")
    store.delete(f"{_NAME}:stream", f"{_NAME}:queue", *(f"{_NAME}:{kind}{name}" for name in marked for kind in kinds))


def _watch(store: Any, begun: str) -> None:
    import redis

    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            if _identity(store) != begun:
                print("Redis was restarted; begins anew", flush=True)
                os._exit(1)
        except redis.RedisError:
            pass  # it is away; what serves says so


def _identity(store: Any) -> str:
    return str(store.info("server")["run_id"])


if __name__ == "__main__":
    main()
