"""The runs of the chaos test: each writes down, from inside its process, when it began and that it still goes on."""

import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow, task

from gpu_pools.slots.lease import report_progress, run_locks
from gpu_pools.slots.local_slot import on_device
from gpu_pools.stopping import pause
from tasks.run.stop_request import exit_for_resume, stop_asked

TICK_S = 0.05
Process = dict[str, int | str]


def write(path: Path, span: dict[str, object]) -> None:
    """Write a span; a reader sees a whole one, and a process killed in between leaves the one before."""
    path.with_suffix(".tmp").write_text(json.dumps(span))
    path.with_suffix(".tmp").rename(path)


@flow(name="hold")
def hold(folder: str, seconds: float = 1.0, child: bool = False) -> None:
    """Hold the slot for some seconds; if asked, start children that leave the session, one without any open file."""
    run = os.environ["PREFECT__FLOW_RUN_ID"]
    path = Path(folder) / "spans" / f"{run}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    begin = time.monotonic()  # the same clock for all processes of a host
    span = {
        "run": run,
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "slot": Path(os.environ["TRAINYARD_LEASE"]).name,
        "visible": os.environ["CUDA_VISIBLE_DEVICES"],
        "begin": begin,
        "last": begin,
        "end": False,
    }
    write(path, span)
    if child and os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    if child:
        subprocess.Popen(["sleep", "3600"], start_new_session=True)
    while time.monotonic() < begin + seconds:
        pause(TICK_S)
        write(path, span | {"last": time.monotonic()})
    write(path, span | {"last": time.monotonic(), "end": True})


@flow(name="several")
def several(folder: str, train: dict[str, int | str], seconds: float = 1.0) -> None:
    """Hold slots for some seconds as a training on several GPUs does: with a child, and word of how long it takes."""
    run, ends = os.environ["PREFECT__FLOW_RUN_ID"], time.monotonic() + seconds
    path = Path(folder) / "spans" / f"{run}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    slots = [Path(slot).name for slot in os.environ["TRAINYARD_LEASE"].splitlines()]
    child = subprocess.Popen(["sleep", "3600"], pass_fds=run_locks())
    begin = time.monotonic()
    span = {"run": run, "pid": os.getpid(), "slots": slots, "begin": begin, "last": begin, "end": False}
    span |= {"on": os.environ["TRAINYARD_ON"], "visible": os.environ["CUDA_VISIBLE_DEVICES"], "child": child.pid}
    report_progress(0, 10, seconds)
    while time.monotonic() < ends:
        write(path, span | {"last": time.monotonic()})
        pause(TICK_S)
    child.kill()
    child.wait()
    write(path, span | {"last": time.monotonic(), "end": True})


@flow(name="train_classifier")
def train_classifier(train: dict[str, int | str], folder: str, seconds: float = 2.0) -> None:
    """Hold the slot as a training does, with 1000 MiB of a simulated GPU and as much for each image of a batch."""
    with on_device("cuda", "training"), _memory(1000 + 200 * int(train["batch_size"])):
        path = Path(folder) / "spans" / f"{os.environ['PREFECT__FLOW_RUN_ID']}-{os.getpid()}.json"
        path.parent.mkdir(exist_ok=True)
        begin = time.monotonic()
        write(path, {"run": os.environ["PREFECT__FLOW_RUN_ID"], "pid": os.getpid(), "begin": begin})
        while time.monotonic() < begin + seconds:
            pause(TICK_S)


@contextmanager
def _memory(mib: int) -> Iterator[None]:
    """Take memory of the simulated GPU that this process has."""
    tag = os.environ["TRAINYARD_ON"]
    own = {"pid": os.getpid(), "user": "anna", "name": "python", "memory_mib": mib}
    _occupy(tag, lambda others: [*others, own])
    try:
        yield
    finally:
        _occupy(tag, lambda others: [one for one in others if one != own])


def _occupy(tag: str, change: Callable[[list[Process]], list[Process]]) -> None:
    path = Path(os.environ["TRAINYARD_SIMULATED_STATE"])
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(path.read_text()) if path.exists() else {}
        processes = change(state.get(tag, {}).get("processes", []))
        used = sum(int(one["memory_mib"]) for one in processes)
        write(path, state | {tag: {"processes": processes, "memory_used_mib": used}})


@task(name="work")
def work(folder: str, seconds: float) -> None:
    """Work for some seconds in a step; end where the worker wants the run to go on later."""
    run = os.environ["PREFECT__FLOW_RUN_ID"]
    path = Path(folder) / "spans" / f"{run}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    begin = time.monotonic()
    write(path, {"run": run, "pid": os.getpid(), "begin": begin})
    while time.monotonic() < begin + seconds:
        pause(TICK_S)
        if stop_asked():
            exit_for_resume()


@flow(name="steps")
def steps(folder: str, seconds: float = 1.0) -> None:
    """Work in a step."""
    work(folder, seconds)


@flow(name="call")
def call(folder: str, kind: str) -> None:
    """Call a library again and again, for seconds each time, and look between two calls."""
    run = os.environ["PREFECT__FLOW_RUN_ID"]
    path = Path(folder) / "spans" / f"{run}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    function = CALLS[kind]
    write(path, {"run": run, "pid": os.getpid(), "begin": time.monotonic()})
    while True:
        function()
        pause(0.01)


def _load() -> None:
    """Read slow samples by processes of torch's loader."""
    import torch

    class Slow(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            time.sleep(0.2)
            return index

    assert len(list(torch.utils.data.DataLoader(Slow(), num_workers=1))) == 8


def _ask_mlflow() -> None:
    """Ask an MLflow that takes the connection and does not answer."""
    import socket

    from mlflow import MlflowClient

    with socket.create_server(("127.0.0.1", 0)) as silent:
        MlflowClient(f"http://127.0.0.1:{silent.getsockname()[1]}").get_run("r")


def _ask_prefect() -> None:
    """Ask the server a thousand times."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for _ in range(1000):
            client.hello()


def _copy() -> None:
    """Copy a large file."""
    large = Path("large")
    large.touch()
    os.truncate(large, 2**31)
    shutil.copyfile(large, "copy")


def _hold_the_lock() -> None:
    """Keep Python's lock for a second, as an extension may: no other thread runs meanwhile."""
    ctypes.PyDLL(None).sleep(1)


CALLS = {"loader": _load, "mlflow": _ask_mlflow, "prefect": _ask_prefect, "copy": _copy, "lock": _hold_the_lock}


@flow(name="fail")
def fail() -> None:
    """Fail."""
    raise ValueError("found nothing, need something")
