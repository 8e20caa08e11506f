"""What this host is called."""

import socket


def host_name() -> str:
    """Return the short name of this host, as in `boxb/cuda:1`."""
    return socket.gethostname().partition(".")[0]
