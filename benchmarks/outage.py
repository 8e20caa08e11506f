"""Trainings while MLflow or Prefect is away, against the same training without an outage: rows, files, time.

One yard of its own: Prefect, MLflow and a worker, on ports and in a folder of their own; MLflow's store is a small
tmpfs where this user may mount one. Each training sleeps for an epoch, then logs what depends on the epoch alone:
metrics, tags, pictures, files. What MLflow has at the end is held against the run's journal and against the run
without an outage: (key, step, value), parameters, and files by their digests. The time of a training is its sleeps as
they were meant, and the seconds that each epoch took beyond: a busy machine makes neither longer than the other.

    python benchmarks/outage.py [--quick] [--only SCENARIO ...]

The last line is JSON: `rows_lost`, `rows_twice`, `files_wrong` over all scenarios, the largest `ratio`, each scenario.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.outage_training import HURRY, read_gaps
from deployments.services.programs import mlflow_service, prefect_service, worker_program
from deployments.services.service import Program, free_port, kill_session, spawn, stop
from gpu_pools.process.run_process import MARK
from tasks.tracking.journal import read_card, read_lines
from tasks.tracking.unsent import find_unsent

ROOT = Path(__file__).resolve().parent.parent
ROW = "{:<20}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}  {:<10}  {}"
SAMPLED = ("system/", "slot/", "foreign/")  # by the clock: other rows in each run
STORE_MIB = 256


@dataclass(frozen=True)
class Lengths:
    """Of a benchmark, seconds."""

    epochs: int
    epoch_s: float
    outage_s: float
    prefect_s: float


FULL, QUICK = Lengths(40, 1.0, 20.0, 120.0), Lengths(24, 0.25, 4.0, 6.0)


class Server:
    """A service that is stopped, killed and started again."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.start()

    def start(self) -> None:
        """Start it; returns when it answers."""
        self.process = spawn(self.program)
        until(lambda: self.program.answers(0), 240, f"{self.program.name} answers")

    def stop(self) -> None:
        """End it in order."""
        stop(self.process)

    def kill(self) -> None:
        """Kill it with all its processes."""
        kill_session(self.process.pid)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self.process.pid, number)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not come about.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)


class Yard:
    """Prefect, MLflow and a worker, and one training at a time."""

    def __init__(self, home: Path, lengths: Lengths) -> None:
        self.home, self.lengths = home, lengths
        self.prefect = Server(prefect_service(free_port(), ui=False))
        self.mlflow = Server(mlflow_service(free_port()))
        self.api, self.uri = f"{self.prefect.program.url}/api", self.mlflow.program.url  # type: ignore[attr-defined]
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        self.http = httpx.Client(base_url=self.api, timeout=60)
        self.worker = spawn(worker_program("bench", {"PREFECT_API_URL": self.api, "MLFLOW_TRACKING_URI": self.uri}))
        until(lambda: self._ask("GET", "/work_pools/gpu/queues/cpu.training") is not None, 120, "the worker serves")
        self.deployment = self._deploy()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self.http.request(method, path, json=body)
            return answer.json() if answer.status_code < 300 else None
        except httpx.TransportError:
            return None

    def _make(self, path: str, body: Any) -> str:
        """Make something and return its id; SQLite refuses now and then, and what has a key is made once."""
        made: Any = None

        def ask() -> object:
            nonlocal made
            made = self._ask("POST", path, body)
            return made

        until(ask, 60, f"Prefect takes {path}")
        return str(made["id"])

    def _deploy(self) -> str:
        flow = self._make("/flows/", {"name": "outage_training"})
        body = {
            "name": "bench",
            "flow_id": flow,
            "entrypoint": "benchmarks.outage_training.outage_training",
            "work_pool_name": "gpu",
            "work_queue_name": "cpu.training",
            "enforce_parameter_schema": False,
        }
        return self._make("/deployments/", body)

    def submit(self, name: str) -> str:
        """Start a training; return its id once it has logged three epochs."""
        parameters = {"name": name, "epochs": self.lengths.epochs, "epoch_s": self.lengths.epoch_s}
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": name}
        run = self._make(f"/deployments/{self.deployment}/create_flow_run", body)
        until(lambda: self.epoch(run) >= 3, 180, f"{name} works")
        return run

    def folder(self, run: str) -> Path:
        """Return the folder of a training."""
        return self.home / "runs" / run / "training"

    def epoch(self, run: str) -> int:
        """Return how many epochs a training has done."""
        return len(read_gaps(self.folder(run)))

    def beyond(self, run: str, epoch: int) -> bool:
        """Return whether a training has done more than so many epochs."""
        return self.epoch(run) > epoch

    def state(self, run: str) -> str:
        """Return Prefect's name of a run's state; empty: it does not answer."""
        found = self._ask("GET", f"/flow_runs/{run}")
        return str(found["state_name"]) if found else ""

    def wait(self, run: str) -> str:
        """Let a training come to its end, and MLflow have all of it; return its state."""
        (self.folder(run) / HURRY).touch()
        last = {"Completed", "Failed", "Crashed", "Cancelled", "TimedOut"}
        until(lambda: self.state(run) in last, 600, f"{run} has ended")
        until(lambda: not find_unsent(run), 300, f"all of {run} is sent")
        return self.state(run)

    def processes(self, run: str) -> list[psutil.Process]:
        """Return the processes of a training."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == run:
                    found.append(process)
        return found

    def close(self) -> None:
        """End all."""
        for process in (self.worker, self.prefect.process, self.mlflow.process):
            kill_session(process.pid)
            process.wait()


def nothing(yard: Yard, run: str) -> None:
    """Let it run."""


def mlflow_frozen(yard: Yard, run: str) -> None:
    """MLflow takes connections and does not answer."""
    yard.mlflow.signal(signal.SIGSTOP)
    time.sleep(yard.lengths.outage_s)
    yard.mlflow.signal(signal.SIGCONT)


def mlflow_restarted(yard: Yard, run: str) -> None:
    """MLflow is ended in order, and started later."""
    yard.mlflow.stop()
    time.sleep(yard.lengths.outage_s)
    yard.mlflow.start()


def mlflow_killed(yard: Yard, run: str) -> None:
    """MLflow is killed a moment after it has begun to work on a batch, four times."""
    for delay_s in (0.01, 0.03, 0.1, 0.3):
        yard.mlflow.signal(signal.SIGSTOP)
        until(partial(yard.beyond, run, min(yard.epoch(run) + 2, 16)), 60, "a batch is under way")
        yard.mlflow.signal(signal.SIGCONT)
        time.sleep(delay_s)
        yard.mlflow.kill()
        yard.mlflow.start()


def mlflow_full(yard: Yard, run: str) -> None:
    """The disk of MLflow's store and files is full."""
    ballast = yard.home / "mlflow" / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    continue
    time.sleep(yard.lengths.outage_s)
    ballast.unlink()


def prefect_down(yard: Yard, run: str) -> None:
    """Prefect is ended in order, and started later."""
    yard.prefect.stop()
    time.sleep(yard.lengths.prefect_s)
    yard.prefect.start()


def both_down(yard: Yard, run: str) -> None:
    """Prefect and MLflow are away at once."""
    yard.mlflow.kill()
    yard.prefect.kill()
    time.sleep(yard.lengths.prefect_s)
    yard.prefect.start()
    yard.mlflow.start()


def run_killed(yard: Yard, run: str) -> None:
    """The training is killed while MLflow is away, and started again by the worker."""
    yard.mlflow.kill()
    time.sleep(yard.lengths.outage_s / 2)
    for process in yard.processes(run):
        process.kill()
    before = yard.epoch(run)
    until(lambda: yard.epoch(run) > before or (before > 16 and yard.processes(run)), 120, "it goes on")
    yard.mlflow.start()


def away_at_end(yard: Yard, run: str) -> None:
    """The training ends while MLflow is away; the worker sends the rest."""
    yard.mlflow.kill()
    (yard.folder(run) / HURRY).touch()
    until(lambda: yard.state(run) in {"Completed", "Failed", "Crashed"}, 300, "it ends")
    yard.mlflow.start()


SCENARIOS: tuple[Callable[[Yard, str], None], ...] = (
    nothing,
    mlflow_frozen,
    mlflow_restarted,
    mlflow_killed,
    mlflow_full,
    prefect_down,
    both_down,
    run_killed,
    away_at_end,
)


@dataclass(frozen=True)
class Stored:
    """What MLflow has of a run."""

    rows: Counter[tuple[str, int, float]]
    params: dict[str, str]
    tags: dict[str, str]
    files: Counter[tuple[str, str]]  # name without what differs, digest


def stored(uri: str, folder: Path) -> Stored:
    """Read all that MLflow has of the run in a folder."""
    from mlflow import MlflowClient

    card = read_card(folder)
    assert card is not None
    assert card.run_id is not None
    client = MlflowClient(uri)
    run = client.get_run(card.run_id)
    assert run.info.status == "FINISHED", run.info.status
    rows = Counter(
        (key, found.step, found.value)
        for key in run.data.metrics
        for found in client.get_metric_history(card.run_id, key)
    )
    files: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as target:
        top = Path(client.download_artifacts(card.run_id, "", target))
        for path in top.rglob("*"):
            name = re.sub(r"\+timestamp\+[^.]*?(\+compressed)?\.", r"\1.", str(path.relative_to(top)))
            if path.is_file() and name != "log/run.log":
                files[name, hashlib.sha256(path.read_bytes()).hexdigest()] += 1
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("epoch_")}
    return Stored(rows, dict(run.data.params), tags, files)


@dataclass(frozen=True)
class Result:
    """What a scenario has cost."""

    state: str
    rows: int
    rows_lost: int
    rows_twice: int
    files_wrong: int
    ratio: float
    seconds: float
    noticed: bool  # MLflow refused something, or did not answer, and the run said so


def compare(found: Stored, plain: Stored, folder: Path) -> tuple[int, int, int]:
    """Return how many rows are lost, how many are there twice, and how many files, parameters and tags are wrong."""
    logged: Counter[tuple[str, int, float]] = Counter(
        (key, entry["step"], value)
        for entry, _ in read_lines(folder / "journal.jsonl")
        if entry["op"] == "metrics"
        for key, value in entry["values"].items()
    )
    wanted = Counter({row: 1 for row in plain.rows if not row[0].startswith(SAMPLED)}) | logged
    places = Counter((key, step) for key, step, _ in found.rows.elements())
    wrong = (found.files - plain.files) + (plain.files - found.files)
    others = int(found.params != plain.params) + int(found.tags != plain.tags)
    return (wanted - found.rows).total(), sum(n - 1 for n in places.values()), wrong.total() + others


def measure(yard: Yard, scenario: Callable[[Yard, str], None], plain: tuple[Stored, float] | None) -> Any:
    """Run a training through a scenario; return what it has cost, and what a later one is held against."""
    begun = time.monotonic()
    run = yard.submit(scenario.__name__)
    scenario(yard, run)
    state = yard.wait(run)
    lengths, folder = yard.lengths, yard.folder(run)
    found, took = stored(yard.uri, folder), lengths.epochs * lengths.epoch_s + sum(read_gaps(folder))
    against, base = plain or (found, took)
    lost, twice, wrong = compare(found, against, folder)
    noticed = "does not take what the run logs" in (folder.parent / "output.log").read_text()
    result = Result(state, found.rows.total(), lost, twice, wrong, took / base, time.monotonic() - begun, noticed)
    return result, (against, base)


@contextlib.contextmanager
def small_store(home: Path) -> Iterator[bool]:
    """Mount a small tmpfs for MLflow for the block; yield whether this user may."""
    place = home / "mlflow"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_MIB}m", "none", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


@contextlib.contextmanager
def own_home() -> Iterator[Path]:
    """Make a home of its own for the block, and an environment that leads there."""
    home = Path(tempfile.mkdtemp(prefix="trainyard-outage-"))
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "TRAINYARD_", "MLFLOW_TRACKING"))]:
        del os.environ[name]
    os.environ |= {
        "TRAINYARD_HOME": str(home),
        "TRAINYARD_LOCK_DIR": str(home / "locks"),
        "TRAINYARD_SIMULATE_GPUS": "1",
        "TRAINYARD_DATABASE": "sqlite",
        "TRAINYARD_FLOWS": "benchmarks.outage_training.*",
        "PREFECT_HOME": str(home / "prefect"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    (home / "prefect").mkdir()
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> int:
    """Return 0 where no row is lost or there twice, no file is wrong, and every run is Completed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="outages of seconds, for tests")
    parser.add_argument("--only", nargs="+", default=[], metavar="SCENARIO", help="beside the run without an outage")
    given = parser.parse_args()
    chosen = [one for one in SCENARIOS if one is nothing or not given.only or one.__name__ in given.only]
    results: dict[str, Result] = {}
    plain: tuple[Stored, float] | None = None
    print(ROW.format("scenario", "rows", "lost", "twice", "files", "ratio", "seconds", "state", "noticed"), flush=True)
    with own_home() as home, small_store(home) as small:
        yard = Yard(home, QUICK if given.quick else FULL)
        try:
            for scenario in chosen:
                if scenario is mlflow_full and not small:
                    print(f"{scenario.__name__:<20}left out: only root may mount a small disk", flush=True)
                    continue
                result, plain = measure(yard, scenario, plain)
                results[scenario.__name__] = result
                numbers = result.rows, result.rows_lost, result.rows_twice, result.files_wrong, f"{result.ratio:.3f}"
                words = f"{result.seconds:.0f}", result.state, "yes" if result.noticed else "no"
                print(ROW.format(scenario.__name__, *numbers, *words), flush=True)
        finally:
            yard.close()
    total = {
        name: sum(getattr(one, name) for one in results.values()) for name in ("rows_lost", "rows_twice", "files_wrong")
    }
    ratio = max(one.ratio for name, one in results.items() if name != nothing.__name__ or len(results) == 1)
    print(
        json.dumps(
            {**total, "ratio": round(ratio, 4), "scenarios": {name: asdict(one) for name, one in results.items()}}
        )
    )
    return int(any(total.values()) or any(one.state != "Completed" for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
