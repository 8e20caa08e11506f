"""Runs a training and a fit in processes that get SIGTERM at random moments: signal_runner FOLDER N SEED.

Each process is that of the worker, with a stand-in for Prefect's server that only writes down the states it is told;
what the worker then makes of the run is decided by `final_state`. The heavy imports are made once, before the forks.
A line for each: flow, why the signal came, the moment in seconds, the exit code, how many whole checkpoints there are,
the states that were told, the last one.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER, N, SEED = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
WAYS = {"cancel": "CANCELLING", "time limit": "RUNNING", None: "RUNNING"}
LONGEST_S = 4.0
PATIENCE_S = 6.0  # then the worker kills


class Api(BaseHTTPRequestHandler):
    """Says yes to everything; the states of the run it writes into a file."""

    protocol_version = "HTTP/1.1"
    run: dict[str, Any]
    told: Path

    def log_message(self, *args):
        """Say nothing."""

    def answer(self):
        """Answer any request."""
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"null")
        out: Any = self.run if self.command == "GET" and "/flow_runs/" in self.path else {}
        if self.path.endswith("/set_state"):
            with self.told.open("a") as file:
                file.write(f"{body['state']['type']} {body['state'].get('name')}\n")
            state = {**body["state"], "id": str(uuid.uuid4()), "timestamp": "2026-01-01T00:00:00Z"}
            out = {"status": "ACCEPT", "state": state, "details": {"type": "accept_details"}}
        if self.path.endswith("/filter"):
            out = []
        if self.path.endswith("version"):
            out = import_module("prefect").__version__
        data = json.dumps(out).encode()
        self.send_response(404 if "/artifacts" in self.path else 200)  # the page is a courtesy
        for name, value in {"content-length": len(data), "content-type": "application/json"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = answer


def serve(run: dict[str, Any], told: Path) -> str:
    """Serve one run from a thread of this process; return the address."""
    handler = type("Handler", (Api,), {"run": run, "told": told})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/api"


def make_inputs() -> dict[str, dict[str, Any]]:
    """Write images and a scene; return the parameters of the flows."""
    from tests.inputs import write_images, write_scene
    from tests.samples import SMALL_TRAINING

    train = SMALL_TRAINING | {"batch_size": 4, "num_epochs": 2000, "device": "cpu", "checkpoint_every_s": 0.05}
    fit = {"preset": "quick", "device": "cpu", "max_steps": 50_000, "cap_max": 400, "test_every": 4, "eval_every": 40}
    return {
        "classification.train_classifier": {"dataset": str(write_images(FOLDER / "images")), "train": train},
        "splatting.train_splat": {"scene": str(write_scene(FOLDER / "scene")), "train": fit},
    }


def child(flow: str, parameters: dict[str, Any], run_id: str) -> None:
    """Be the process of the run, from its claim to its end."""
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.states import Pending

    from gpu_pools.process import run_main

    claim = uuid.uuid4()
    run = FlowRun(
        id=uuid.UUID(run_id), flow_id=uuid.uuid4(), name="run", parameters=parameters, state=Pending(id=claim)
    )
    (FOLDER / "runs" / run_id).mkdir(parents=True)
    address = serve(json.loads(run.model_dump_json()), FOLDER / "runs" / run_id / "told")
    output = os.open(FOLDER / "runs" / run_id / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ["PREFECT__FLOW_ENTRYPOINT"] = f"flows.{flow}"
    signal.signal(signal.SIGTERM, run_main._end)
    with temporary_settings({PREFECT_API_URL: address, PREFECT_LOGGING_TO_API_ENABLED: False}):
        run_main.run(run.id, claim)


def wait(pid: int, seconds: float) -> int | None:
    """Return the exit code of a child, None where it lives on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def at_work(pid: int, folder: Path, moment: float) -> int | None:
    """Wait until a training has begun, then a moment; return the exit code of one that ended before."""
    journal, code, end = folder / "journal.jsonl", None, time.monotonic() + 60
    while code is None and time.monotonic() < end:
        if journal.exists() and b'"op":"input"' in journal.read_bytes():
            return wait(pid, moment)
        code = wait(pid, 0.05)
    return code


def one(flow: str, parameters: dict[str, Any], chance: random.Random) -> list[Any]:
    """Start a run, end it at a random moment; return what became of it."""
    import torch

    from gpu_pools.worker.monitor.final_state import final_state

    run_id, way, moment = str(uuid.UUID(int=chance.getrandbits(128))), chance.choice(list(WAYS)), chance.random()
    moment *= LONGEST_S
    pid = os.fork()
    if pid == 0:
        try:
            child(flow, parameters, run_id)
        finally:
            os._exit(1)
    code = (
        wait(pid, moment) if chance.random() < 0.3 else at_work(pid, FOLDER / "runs" / run_id / "training", moment / 2)
    )
    if code is None:
        os.kill(pid, signal.SIGTERM)
        code = wait(pid, PATIENCE_S)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        code = wait(pid, 60)
    told = FOLDER / "runs" / run_id / "told"
    states = told.read_text().splitlines() if told.exists() else []
    last = states[-1].split()[0] if states else "PENDING"
    known = WAYS[way] if last in {"RUNNING", "PENDING"} else last
    ended = final_state(known, phase="running", attempt=1, ending=way, reason="", exit_code=code)
    n_saved = 0
    for path in (FOLDER / "runs" / run_id).rglob("*"):
        if path.name in {"checkpoint.pt", "splat.ckpt"}:
            torch.load(path, weights_only=True)
            n_saved += 1
        assert code == -signal.SIGKILL or not path.name.startswith((".checkpoint.pt.", ".splat.ckpt.")), path
    return [flow, way or "a stranger", round(moment, 2), code, n_saved, states, ended.outcome]


def main() -> None:
    """Send N signals."""
    os.environ.update(
        TRAINYARD_HOME=str(FOLDER),
        TRAINYARD_LOCK_DIR=str(FOLDER / "locks"),
        PREFECT_HOME=str(FOLDER / "prefect"),
        PREFECT_SERVER_EPHEMERAL_ENABLED="false",
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED="false",
        MLFLOW_TRACKING_URI=f"sqlite:///{FOLDER}/mlflow.db",
        TRAINYARD_DEVICE="cpu",
        TRAINYARD_LEASE=str(FOLDER / "none"),
    )
    inputs = make_inputs()
    subprocess.run(
        [sys.executable, "-c", "from tasks.tracking.mlflow_api import client; client()"], check=True
    )  # makes the tables
    for name in ("flows.classification", "flows.splatting", "gpu_pools.process.run_main"):
        import_module(name)
    for name in (
        "tasks.tracking.tracker",
        "tasks.tracking.system",
        "tasks.classification.mlflow_logging",
        "tasks.splatting.mlflow_logging",
    ):
        import_module(name)
    for number in range(N):
        flow = list(inputs)[number % 2]
        print(json.dumps(one(flow, inputs[flow], random.Random(SEED + number))), flush=True)


if __name__ == "__main__":
    main()
