"""A host's share of a training on several hosts, as a run on that host."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed

from gpu_pools.hosts.params import ShareParams
from gpu_pools.hosts.shares import note_share
from gpu_pools.slots.local_slot import on_device
from tasks.training.parallel import steps


@flow(name="join_training")
def join_training(share: ShareParams) -> State[Any]:
    """Compute with the GPUs of this host for a training whose first process is on another one.

    Args:
        share: of which training.

    Returns:
        The state: Cancelled where the training has ended before its end, as it does to start again.
    """
    note_share(share)
    with on_device("cuda", "training", share.n_devices):
        reason = steps.take_part(share.run, share.meeting)
    return Cancelled(message=reason) if reason else Completed(message="the training is done")
