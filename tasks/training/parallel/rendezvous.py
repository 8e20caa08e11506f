"""How the processes of a training find one another, on one host or on several."""

import datetime
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from tasks.training.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import FileStore, Store

PRECISION, THREADS, HERE, ERROR = "precision", "threads", "here", "error"
"""What the first process tells the others; that another one is ready, and why it has ended, followed by its rank."""

LOOPBACK = "lo"
"""The network interface of processes that are all on one host."""

_LONGEST = datetime.timedelta(days=1)
"""Of one exchange: the first process may write a large checkpoint meanwhile, or be stopped for a while (SIGSTOP).

A process that has died is noticed by its end, not by a time that has passed.
"""
_CONNECT = datetime.timedelta(seconds=30)


def open_store(path: Path, size: int) -> "FileStore":
    """Return the store by which `size` processes of this host find one another; a file that only this user can read."""
    store: FileStore = dist.FileStore(str(path), size)  # type: ignore[attr-defined]
    store.set_timeout(_LONGEST)
    return store


def serve_store(address: str) -> "tuple[Store, int]":
    """Serve a store to processes of other hosts; return it, and its port. It ends with this process.

    torch would listen on every address of the host; this one listens on the one given alone.

    Args:
        address: of this host.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind((address, 0))
        listening.listen(128)
        port = int(listening.getsockname()[1])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, None, True, _CONNECT, False, master_listen_fd=listening.detach()
        )
    return store, port


def reach_store(where: Mapping[str, Any]) -> "Store":
    """Return the store that the first process serves, with a connection of its own.

    Args:
        where: its address and port, and the token without which no key in it has a name.

    Raises:
        RuntimeError: it does not answer.
    """
    store = dist.TCPStore(where["address"], where["port"], None, False, _CONNECT, False)  # type: ignore[attr-defined]
    store.set_timeout(_LONGEST)
    named: Store = dist.PrefixStore(where["token"], store)  # type: ignore[attr-defined]
    return named


def store_of(task: Mapping[str, Any], size: int) -> "Store":
    """Return the store that a helper is told of, `size` processes use it."""
    where = task["store"]
    return open_store(Path(where), size) if isinstance(where, str) else reach_store(where)


def connect(store: "Store", ranks: Ranks, interface: str = LOOPBACK) -> Ranks:
    """Connect this process with all the others, which must do the same; return its place.

    Args:
        store: by which they find one another.
        ranks: its place.
        interface: of this host's network, by which the others reach this process.
    """
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, interface)
    gpu = ranks.device if ranks.device.type == "cuda" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    dist.init_process_group(
        backend="nccl" if gpu else "gloo",
        store=store,
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=_LONGEST,
        device_id=gpu,
    )
    return ranks
