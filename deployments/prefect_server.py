"""Prefect's own command with the guard before its server: `python -m deployments.prefect_server server start ...`.

Prefect has no setting for the hosts it answers to. It has one for plugins, which are loaded wherever it is imported:
this module is one (pyproject.toml), so that `prefect server start` with the yard's settings is guarded, too.
"""

from functools import wraps
from typing import Any

from prefect.plugins import register_hook

from deployments.guard import HOSTS, ORIGINS, Guard, Receive, Scope, Send, listed

_IN_MEMORY = "prefect-in-memory"
"""What Prefect's background services call the server that they ask without a socket; a socket has an address there."""


class ServerGuard(Guard):
    """The guard before all that comes through a socket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if (scope.get("server") or ("",))[0] == _IN_MEMORY:
            await self._app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Guard the server that this process may start; Prefect calls it when it is imported."""
    guard_server()


def guard_server() -> None:
    """Put the guard before every server that Prefect makes in this process; twice does no harm."""
    from prefect.server.api import server

    make = server.create_app
    if hasattr(make, "__wrapped__"):
        return

    @wraps(make)
    def create_app(*args: Any, **options: Any) -> Any:
        app = make(*args, **options)
        there: list[Any] = [middleware.cls for middleware in app.user_middleware]
        if ServerGuard not in there:  # the application comes from a cache the next time
            app.add_middleware(ServerGuard, hosts=listed(HOSTS), origins=listed(ORIGINS))
        return app

    server.create_app = create_app


def main() -> None:
    """Run Prefect's command."""
    guard_server()
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
