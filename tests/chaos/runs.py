"""The runs of the chaos test: each writes down, from inside its process, when it began and that it still goes on."""

import json
import os
import subprocess
import time
from pathlib import Path

from prefect import flow, task

from gpu_pools.stopping import pause
from tasks.run.stop_request import exit_for_resume, stop_asked

TICK_S = 0.05


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


@flow(name="fail")
def fail() -> None:
    """Fail."""
    raise ValueError("found nothing, need something")
