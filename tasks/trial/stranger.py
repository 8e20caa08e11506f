"""A foreign process for a trial: it takes memory of a device until it is killed.

`python -m tasks.trial.stranger [--detached] [--slot UUID TAG] [--memory MIB]`
"""

import argparse
import json
import os
import sys
import time


def main() -> None:
    """Take, say so, wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detached", action="store_true", help="as a child of nobody here")
    parser.add_argument("--slot", nargs=2, metavar=("UUID", "TAG"), help="one more training on that device")
    parser.add_argument("--memory", type=int, metavar="MIB", help="on the GPU that CUDA shows first")
    given = parser.parse_args()
    if given.detached and os.fork():
        os._exit(0)
    held: list[object] = []
    if given.slot:
        held.append(_slot(*given.slot))
    if given.memory:
        held.append(_memory(given.memory))
    print(json.dumps({"pid": os.getpid(), "held": len(held)}), flush=True)
    sys.stdin.read()


def _slot(uuid: str, tag: str) -> object:
    """Return the lease of a slot above those that are held, whatever the limit: nobody is kept waiting by its check."""
    from gpu_pools.names import asker
    from gpu_pools.slots.lease import Holder, acquire, holders

    run = f"trial-{os.getpid()}"
    holder = Holder(run, run, asker(), tag, uuid, "training", -1, os.getpid(), time.time(), None)
    lease = acquire(uuid, "training", len(holders(uuid, "training")) + 1, holder)
    if lease is None:
        raise SystemExit(f"found no slot to take on {tag}")
    return lease


def _memory(mib: int) -> object:
    import torch

    held = torch.zeros(mib, 2**20, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    return held


if __name__ == "__main__":
    main()
