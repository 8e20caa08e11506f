"""Runs Prefect's own command with the guard in front of its server.

`python -m deployments.services.prefect_server server start ...`.
On SQLite its transactions take turns, and deployments with their old name get a new one while it starts.

Prefect has no setting for the hosts it answers to. It has one for plugins, which are loaded wherever it is imported:
this module is one (pyproject.toml), so that `prefect server start` with the yard's settings is guarded, too.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import wraps
from importlib import import_module
from itertools import pairwise
from typing import Any

from deployments.services.old_names import by_new_name, renaming
from deployments.services.service import LOOPBACK, check_closed
from tasks.base.errors import ConfigError
from tasks.base.servers.guard import HOSTS, ORIGINS, Guard, Receive, Scope, Send, listed
from tasks.base.servers.password import SERVER
from tasks.base.startup import uncollected

with uncollected():
    from prefect.plugins import register_hook

_IN_MEMORY = "prefect-in-memory"
"""What Prefect's background services call the server that they ask without a socket; a socket has an address there."""


class ServerGuard(Guard):
    """The guard before all that comes through a socket; deployments are found by their old names, too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if (scope.get("server") or ("",))[0] == _IN_MEMORY:
            await self._app(scope, receive, send)
        else:
            await super().__call__(by_new_name(scope), receive, send)


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Guard the server that this process may start; Prefect calls it when it is imported."""
    guard_server()


def guard_server() -> None:
    """Put the guard before every server that Prefect makes in this process; twice does no harm."""
    from prefect.server.api import server

    import_module("deployments.notices.notice_block")  # with which the automations of its notices send
    make = server.create_app
    if hasattr(make, "__wrapped__"):
        return
    _take_turns()
    _ask_again()

    @wraps(make)
    def create_app(*args: Any, **options: Any) -> Any:
        app = make(*args, **options)
        there: list[Any] = [middleware.cls for middleware in app.user_middleware]
        if ServerGuard not in there:  # the application comes from a cache the next time
            app.add_middleware(ServerGuard, hosts=listed(HOSTS), origins=listed(ORIGINS))
            app.router.lifespan_context = renaming(app.router.lifespan_context)
        return app

    server.create_app = create_app


def _take_turns() -> None:
    """Begin every transaction on SQLite as one that writes: it waits for the one before it.

    One that reads first and writes then is refused at once, with 503, where another has written in between, and the
    client comes again after two seconds; one start of a run in four met that.
    """
    from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    @wraps(begin)
    @asynccontextmanager
    async def begin_to_write(self: Any, session: Any, with_for_update: bool = True) -> AsyncIterator[Any]:
        async with begin(self, session, with_for_update=True) as transaction:
            await session.connection()  # begins now: what reads meanwhile in a session of its own must not wait for it
            token = SQLITE_BEGIN_MODE.set("DEFERRED")
            try:
                yield transaction
            finally:
                SQLITE_BEGIN_MODE.reset(token)

    AioSqliteConfiguration.begin_transaction = begin_to_write  # type: ignore[method-assign]


def _ask_again() -> None:
    """Answer 503, after which clients come again, while PostgreSQL or Redis is away.

    Prefect does so where a connection broke, and answers 500 where none could be made: a run that asked then failed.
    """
    from prefect.server.api import server

    known = server.is_client_retryable_exception

    @wraps(known)
    def is_retryable(exc: Exception) -> bool:
        redis: Any = sys.modules.get("redis.exceptions")  # of a lab
        away = (redis.ConnectionError, redis.TimeoutError) if redis else ()
        return known(exc) or isinstance(exc, (ConnectionError, TimeoutError, socket.gaierror, *away))

    server.is_client_retryable_exception = is_retryable


def _check_address() -> None:
    """Refuse to listen to other machines without a password; `server start` listens where its option says, or this."""
    words = sys.argv[1:]
    if words[:2] != ["server", "start"]:
        return
    named = [
        word.partition("=")[2] or after for word, after in pairwise([*words, ""]) if word.split("=")[0] == "--host"
    ]
    host = next(iter(named), os.environ.get("PREFECT_SERVER_API_HOST") or LOOPBACK)
    check_closed("Prefect", host, bool(os.environ.get(SERVER)))


def main() -> None:
    """Run Prefect's command."""
    with uncollected():
        guard_server()
        from prefect.cli import app

    try:
        _check_address()
    except ConfigError as exc:
        sys.exit(f"error: {exc}")
    app()


if __name__ == "__main__":
    main()
