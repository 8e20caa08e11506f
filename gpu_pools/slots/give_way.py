"""Finds who of higher priority would start if this process's run were gone."""

import time
from dataclasses import replace

import httpx

from gpu_pools.job_variables import priority_of
from gpu_pools.names import host_name, whose
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.order import Waiting, rank
from gpu_pools.placement.place import Start, place
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import queue_or_none
from gpu_pools.prefect_client import PoolClient
from gpu_pools.slots.lease import own_holder
from gpu_pools.slots.local_slot import own_policy, own_priority
from gpu_pools.slots.slot_files import Holder
from gpu_pools.slots.waiters import waiting_elsewhere
from tasks.base.errors import TrainyardError


class Rivals:
    """The runs that wait for the slot that this process's run holds."""

    def __init__(self) -> None:
        self._client, self._host = PoolClient(), HostState(host_name(), get_probe())
        self._policy = own_policy()

    def first(self) -> str:
        """Return the run of higher priority that would start at once if this one were gone, and whose it is.

        A run that waits counts as one priority better for every ten minutes, as where runs are placed. Empty: there is
        none, or nobody can tell, as where Prefect's server does not answer.
        """
        try:
            return self._first()
        except (httpx.HTTPError, TrainyardError):
            return ""

    def _first(self) -> str:
        holder, now = own_holder(), time.time()
        if holder is None:
            return ""
        own = self._own_priority(holder)
        better = [asks for asks in self._waiting(holder) if rank(asks, now)[0] < own]
        if not better:
            return ""
        devices = [
            replace(device, holders=tuple(other for other in device.holders if other.run_id != holder.run_id))
            for device in self._host.devices(self._host.queues(self._client))
            if device.uuid == holder.uuid
        ]
        told, rules = self._policy.look(better)
        decisions = place(told, devices, host=self._host.name, now=now, rules=rules)
        names = {asks.run_id: whose(asks.run_name, asks.owner) for asks in better}
        return next((names[decision.run_id] for decision in decisions if isinstance(decision, Start)), "")

    def _own_priority(self, holder: Holder) -> int:
        """Return the priority of a run; the pool does not know one of `yard run`."""
        run = self._client.by_id([holder.run_id]).get(holder.run_id)
        return priority_of(run, holder.kind) if run else own_priority(holder.kind)

    def _waiting(self, holder: Holder) -> list[Waiting]:
        """Return the runs of the same kind that a worker has let wait, or that wait in a terminal, for this host."""
        found = [(run, queue_or_none(run.queue)) for run in self._client.due() if run.state_name == "Waiting"]
        asks = [self._host.asks(run, queue) for run, queue in found if queue is not None]
        asks += waiting_elsewhere(("terminal",), {run.run_id for run in asks})
        return [run for run in asks if run.queue.kind == holder.kind and self._host.serves(run.queue)]
