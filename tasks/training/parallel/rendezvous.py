"""How the processes of a training find one another on one host: a file, and connections on loopback."""

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from tasks.training.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import FileStore, Store

PRECISION, THREADS, HERE, ERROR = "precision", "threads", "here", "error"
"""What the first process tells the others; that another one is ready, and why it has ended, followed by its rank."""

_LONGEST = datetime.timedelta(days=1)
"""Of one exchange: the first process may write a large checkpoint meanwhile, or be stopped for a while (SIGSTOP).

A process that has died is noticed by its end, not by a time that has passed.
"""


def open_store(path: Path, size: int) -> "FileStore":
    """Return the store by which `size` processes of this host find one another; a file that only this user can read."""
    store: FileStore = dist.FileStore(str(path), size)  # type: ignore[attr-defined]
    store.set_timeout(_LONGEST)
    return store


def connect(store: "Store", ranks: Ranks) -> Ranks:
    """Connect this process with all the others, which must do the same; return its place."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
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
