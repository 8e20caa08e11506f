"""A slot for a block of a person's own Python: `from deployments.yard_gpu import yard_gpu`."""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from deployments.api import api_url
from deployments.stack.stack import known_stack
from gpu_pools.names import asker
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Kind, default_priority
from gpu_pools.process.process_label import process_label
from tasks.base.errors import ConfigError, GpuError
from tasks.base.servers.password import CLIENT

_CUDA_NOT_INITIALISED = 3  # CUresult
_KIND: Kind = "training"
_EXPERIMENT = "programs"
_alone = threading.RLock()
_used: list[str] = []  # the device whose GPU this process computed on first, which it cannot change


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A slot that a block holds.

    Args:
        slot: as people write it: cuda:1, cpu.
        device: for PyTorch: cuda, the only GPU that the process sees, or cpu.
    """

    slot: str
    device: str


@contextmanager
def yard_gpu(
    device: str = "cuda", *, name: str | None = None, priority: int | None = None, wait: bool = True
) -> Iterator[HeldSlot]:
    """Hold a slot for the block, in which this process sees the slot's GPU alone.

    It is a run in Prefect while a server is up, and MLflow's variables lead into a run of that name. In a process
    that has a slot already, such as under `yard exec`, that one is used. No signal is handled; when the process
    dies, however that is, the slot is free.

    Args:
        device: `cuda` (the least loaded GPU), `cuda:1` or `cpu`.
        name: of the run; None: that of the script.
        priority: 1 (first) to 10.
        wait: for the slot; else a taken one is an error.

    Raises:
        GpuError: there is no such device here, or CUDA is initialised, so that this process can change its GPU no more.
        GpuBusyError: it is taken, and `wait` is off.
        ConfigError: another thread of this process has such a block, or `priority` is none.
    """
    if priority is not None and not 1 <= priority <= 10:
        raise ConfigError(f"found priority {priority}, need 1 (first) to 10")
    if not _alone.acquire(blocking=False):
        raise ConfigError("found another thread in a yard_gpu block, need one at a time: a process sees one GPU")
    try:
        if "TRAINYARD_LEASE" in os.environ:
            yield HeldSlot(os.environ.get("TRAINYARD_ON", ""), os.environ.get("TRAINYARD_DEVICE", ""))
            return
        wanted = _possible(device)
        with _held(wanted, name or _script(), priority or default_priority(_KIND), wait) as held:
            yield held
            if cuda_is_initialised():
                _used[:] = [held.slot]
    finally:
        _alone.release()


def cuda_is_initialised() -> bool:
    """Return whether this process has looked for GPUs, after which CUDA_VISIBLE_DEVICES changes nothing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:  # nobody has loaded it
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != _CUDA_NOT_INITIALISED)


def _possible(device: str) -> str:
    """Return the device that this process can still have.

    Raises:
        GpuError: it is another one.
    """
    if device == "cpu" or not cuda_is_initialised():
        return device
    if _used and device in ("cuda", _used[0]):
        return _used[0]
    found = f"it computes on {_used[0]}" if _used else "it has looked for GPUs (torch.cuda.is_available() does)"
    raise GpuError(
        f"found that CUDA is initialised in this process, need {device} before that, as {found}: enter the block "
        "first, in a notebook after a restart of its kernel"
    )


def _script() -> str:
    return Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"


@contextmanager
def _held(device: str, name: str, priority: int, wait: bool) -> Iterator[HeldSlot]:
    has_server = bool(os.environ.get("PREFECT_API_URL") or known_stack())
    url = api_url() if has_server else ""
    from gpu_pools.placement.rules import Policy
    from gpu_pools.slots.local_slot import (
        environ,
        limits,
        own_host,
        own_policy,
        own_queue,
        slot_environment,
        wait_for_slot,
    )

    host = own_host()
    queue = own_queue(host, device, _KIND)
    with ExitStack() as stack:
        stack.enter_context(_asking(url) if has_server else nullcontext())
        run = stack.enter_context(_prefect_run(name, device, priority)) if has_server else _NoServer()
        asks = Waiting(run.id, name, queue, priority=priority, since=time.time(), owner=asker())
        queues, policy = (limits(), own_policy()) if has_server else ({}, Policy())
        lease = stack.enter_context(wait_for_slot(host, asks, queues, policy, run.say, refuses=not wait))
        gpu = host.device(lease.holder.uuid)
        run.has(host.name, lease.holder.device, asks)
        stack.enter_context(environ(slot_environment(lease, [gpu] if gpu else [])))
        stack.enter_context(_mlflow_run(name, lease.holder.device, run.id))
        yield HeldSlot(lease.holder.device, "cuda" if gpu and not gpu.simulated else "cpu")


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Let Prefect ask this server for the block, also where it was imported before and knows another one, or none."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value() == url:
        yield
        return
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: os.environ.get(CLIENT)}):
        yield


class _NoServer:
    """A run that is known to the slots of this host alone."""

    def __init__(self) -> None:
        self.id = str(uuid4())

    def say(self, reason: str) -> None:
        """Tell who sits there."""
        if reason:
            print(f"yard: waits: {reason}", file=sys.stderr, flush=True)

    def has(self, host: str, device: str, asks: Waiting) -> None:
        """Note the slot: nobody asks."""


class _PrefectRun(_NoServer):
    """A run that Prefect shows."""

    def __init__(self, run_id: str) -> None:
        from gpu_pools.prefect_client import PoolClient

        self.id, self._client = run_id, PoolClient()
        self._client.set_labels(run_id, process_label())

    def say(self, reason: str) -> None:
        """Tell who sits there, and the server."""
        super().say(reason)
        self.state("RUNNING", "Waiting" if reason else "Running", reason)

    def state(self, kind: str, name: str, message: str) -> None:
        """Set a state."""
        from prefect.client.schemas.objects import StateType

        from gpu_pools.prefect_client import make_state

        self._client.force(self.id, make_state(StateType[kind], name, message))

    def has(self, host: str, device: str, asks: Waiting) -> None:
        """Note the slot."""
        waited_s = time.time() - asks.since
        self._client.set_own_slot(self.id, (host, device), owner=asks.owner, kind=asks.queue.kind, waited_s=waited_s)


@contextmanager
def _prefect_run(name: str, device: str, priority: int) -> Iterator[_PrefectRun]:
    """Have a run in Prefect for the block; it ends as the block does."""
    from prefect import Flow
    from prefect.client.orchestration import get_client
    from prefect.states import Pending

    def own_block(device: str) -> None:
        """A block of a person's own Python; it has no deployment."""

    with get_client(sync_client=True) as client:
        made = client.create_flow_run(
            Flow(own_block),
            name=name,
            parameters={"device": device},
            state=Pending(),
            job_variables={"priority": priority, "owner": asker()},
        )
    run = _PrefectRun(str(made.id))
    run.state("RUNNING", "Running", "")
    try:
        yield run
    except (KeyboardInterrupt, GeneratorExit):
        run.state("CANCELLED", "Cancelled", "stopped by Ctrl-C")
        raise
    except BaseException as exc:
        run.state("FAILED", "Failed", f"{type(exc).__name__}: {exc}"[:500])
        raise
    run.state("COMPLETED", "Completed", "")


@contextmanager
def _mlflow_run(name: str, slot: str, run_id: str) -> Iterator[None]:
    """Lead MLflow's own logging into one run; where MLflow does not answer, its variables are left as they were."""
    from gpu_pools.slots.local_slot import environ
    from tasks.tracking.mlflow_api import TRANSIENT, client, tracking_uri
    from tasks.tracking.mlflow_names import FLOW_RUN

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    try:
        store: Any = client()
        known = store.get_experiment_by_name(experiment)
        place = known.experiment_id if known else store.create_experiment(experiment)
        tags = {"device": slot, FLOW_RUN: run_id, "owner": asker()}
        made = store.create_run(place, run_name=name, tags=tags).info.run_id
    except TRANSIENT as exc:
        print(f"yard: MLflow does not answer, its variables are left as they were: {exc}", file=sys.stderr)
        yield
        return
    uri, status = tracking_uri(), "FAILED"
    own = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": experiment, "MLFLOW_RUN_ID": made}
    try:
        with environ(own):
            yield
        status = "FINISHED"
    except (KeyboardInterrupt, GeneratorExit):
        status = "KILLED"
        raise
    finally:
        try:
            store.set_terminated(made, status)
        except TRANSIENT as exc:
            print(f"yard: MLflow was not told how the run ended: {exc}", file=sys.stderr)
