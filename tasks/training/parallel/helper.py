"""The program of each process of a training but its first: it computes its share, and writes nothing.

`python -m tasks.training.parallel.helper`, with a JSON object on its input: `session` and `params_type` as
module:class, `dataset`, `folder`, `cache`, `params`, `rank`, `size`, `device`, `store`, `local` (its number among the
processes of its host) and `interface` (of the network by which the others reach it).
"""

import importlib
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

from tasks.base.errors import TrainyardError
from tasks.training.parallel.ranks import Ranks
from tasks.training.parallel.rendezvous import ERROR, HERE, PRECISION, THREADS, connect, store_of
from tasks.training.precision import Precision

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def main() -> None:
    """Take part in the training that the input describes."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the first process stops, and this one with it
        signal.signal(ignored, signal.SIG_IGN)
    task = json.loads(sys.stdin.read())
    rank, size = int(task["rank"]), int(task["size"])
    store = store_of(task, size)
    try:
        take_part(task, Ranks(rank, size, _device(task["device"], int(task["local"]))), store)
    except Exception as exc:
        said = str(exc) if isinstance(exc, TrainyardError | RuntimeError) else repr(exc)
        store.set(f"{ERROR}{rank}", " ".join(said.split())[:500])
        traceback.print_exc()
        logging.shutdown()
        # Not by way of the interpreter's own end: gloo's threads, still connected, abort about one in ten of those, and
        # the first process would take that for a kill.
        os._exit(1)


def _device(kind: str, local: int) -> torch.device:
    return torch.device("cuda", local) if kind == "cuda" else torch.device(kind)


def take_part(task: Mapping[str, Any], ranks: Ranks, store: "Store") -> None:
    """Compute one process's share of a training, from where its folder stands to its last epoch."""
    params = _named(task["params_type"])(**task["params"])
    dataset, folder, cache = (Path(task[name]) for name in ("dataset", "folder", "cache"))
    session = _named(task["session"])(dataset, folder, params, ranks.device, cache=cache, clock_ms=lambda: 0)
    session.find_data()
    precision = cast(Precision, store.get(PRECISION).decode())  # waits until the first process has chosen it
    if ranks.device.type == "cpu":
        torch.set_num_threads(int(store.get(THREADS)))

    def joined() -> Ranks:
        store.set(f"{HERE}{ranks.rank}", "")
        return connect(store, ranks, task["interface"])

    session.help(precision, joined)
    dist.destroy_process_group()


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    main()
