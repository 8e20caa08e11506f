"""What this host is called."""

import socket


def host_name() -> str:
    """Return the short name of this host, as in `boxb/cuda:1`."""
    return socket.gethostname().partition(".")[0]


def worker_label(name: str) -> str:
    """Return how Prefect shows the worker `name` of this host: HOST, or HOST:NAME, as hosts are told by it."""
    host = host_name()
    return host if name == host else f"{host}:{name.removeprefix(f'{host}/')}"
