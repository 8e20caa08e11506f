"""Listens for the gate, for as long as a block lasts."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from tasks.base.errors import ConfigError
from tasks.base.servers.guard import App

_END_S = 3


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the run."""
        yield


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound; port 0: any that is free.

    Raises:
        ConfigError: the address is taken or is not of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {host}:{port}, {exc.strerror or exc}: choose another one") from exc


@asynccontextmanager
async def listening(app: App, listener: socket.socket) -> AsyncIterator[str]:
    """Serve an application for the block; yield its URL. At the end requests have three seconds, then are cut off."""
    application: Any = app
    config = uvicorn.Config(
        *(application,), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_END_S
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        host, port = listener.getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        server.should_exit = True
        await serving
        if cut_off := list(server.server_state.tasks):  # told to end, but not waited for
            await asyncio.wait(cut_off, timeout=_END_S)
