"""One round of housekeeping in a home of 2,000 runs and 20 GB of sparse files, with real Prefect and MLflow stores.

The peer is `du`: what the receipt says was freed, against what du says is gone. What is protected (pinned, waiting,
running, read by a run, not sent yet, registered) must all be there afterwards.

    python benchmarks/housekeeping.py [--runs 2000] [--gigabytes 20]
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deployments.api import Api, connect
from deployments.machine.environment import prepare_environment
from deployments.services.programs import prefect_service
from deployments.services.service import free_port, running
from gpu_pools.prefect_pages import BULK
from gpu_pools.process import run_setup
from tasks.base.workspace import run_dir

KINDS = {
    "due": 0.40,  # kept 12 h, ended long ago
    "checkpoints": 0.25,  # kept for good, but not what they went on from
    "pinned": 0.05,
    "waiting": 0.05,
    "held": 0.05,  # by a living process
    "read": 0.05,  # by the run that waits for them
    "unsent": 0.05,  # MLflow does not have all of it
    "young": 0.10,
}
PROTECTED = ("pinned", "waiting", "held", "read", "young")
KEPT = {"due", "pinned", "waiting", "held", "read", "unsent"}  # those with keep_files


def make_records(api: Api, kinds: Sequence[str]) -> list[str]:
    """Create a run of each kind on the server; return their ids in the same order."""
    flow = api.call("POST", "/flows/", {"name": "work"})["id"]
    deployment = api.call("POST", "/deployments/", {"name": "work", "flow_id": flow})["id"]
    ids: list[str] = []
    for start in range(0, len(kinds), BULK):
        bodies = [
            {
                "state": {"type": "SCHEDULED" if kind == "waiting" else "COMPLETED"},
                "tags": ["pinned"] if kind == "pinned" else [],
                "job_variables": {"keep_files": "12h"} if kind in KEPT else {},
            }
            for kind in kinds[start : start + BULK]
        ]
        answer = api.call("POST", f"/deployments/{deployment}/create_flow_run/bulk", bodies)
        ids += [result["flow_run_id"] for result in answer["results"]]
    read = [run for run, kind in zip(ids, kinds, strict=True) if kind == "read"]
    body = {"state": {"type": "SCHEDULED"}, "parameters": {"data": [f"runs/{run}/split" for run in read]}}
    api.call("POST", f"/deployments/{deployment}/create_flow_run", body)
    return ids


def make_old(home: Path, ids: Sequence[str]) -> None:
    """Let runs have ended 40 days ago: the server itself takes no time from anybody."""
    ended = (datetime.now(UTC) - timedelta(days=40)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with sqlite3.connect(home / "prefect" / "prefect.db", timeout=60) as database:
        for run in ids:
            database.execute("UPDATE flow_run SET end_time = ? WHERE id = ?", (ended, run))
    database.close()


def fill(run: str, kind: str, pictures: Sequence[Path], size: int, rng: random.Random) -> None:
    """Give a run what a training leaves: a split of hard links, sparse weights, and a checkpoint."""
    folder = run_dir(run)
    (folder / "split").mkdir()
    for picture in pictures[:8]:
        os.link(picture, folder / "split" / picture.name)
    training = folder / "training"
    training.mkdir()
    for name in ("checkpoint.pt", "best.pt", "last.pt"):
        with (training / name).open("wb") as file:
            file.truncate(size // 3)
            file.write(rng.randbytes(rng.randrange(1, 20_000)))
    os.link(training / "best.pt", training / "best-0003.pt")  # both links go: it frees its blocks once
    if kind == "unsent":
        (training / "outbox" / "a").mkdir(parents=True)
        (training / "outbox" / "a" / "loss.png").write_bytes(b"x" * 5000)


def fill_cache(home: Path, n_files: int) -> None:
    """Put files of 40 kB into the cache, each used an hour earlier than the one before."""
    for number in range(n_files):
        path = home / "cache" / "resize-v1-112" / f"{number % 256:02x}" / f"{number:032x}.rgb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 40_000)
        used = time.time() - 3600 * (2 + number)
        os.utime(path, (used, used))


def fill_mlflow(home: Path) -> list[Path]:
    """Make 40 MLflow runs that were deleted, a model registered of each fourth; return the files of those four."""
    from tasks.tracking.mlflow_api import client

    store = client()
    experiment = store.create_experiment("lab", artifact_location=(home / "mlflow" / "artifacts" / "lab").as_uri())
    store.create_registered_model("drones")
    needed = []
    for number in range(40):
        run = store.create_run(experiment)
        store.log_text(run.info.run_id, "x" * 30_000, "weights/best.pt")
        if number % 4 == 0:
            store.create_model_version("drones", f"runs:/{run.info.run_id}/weights", run.info.run_id)
            needed.append(Path(run.info.artifact_uri.removeprefix("file://")) / "weights" / "best.pt")
        store.delete_run(run.info.run_id)
    return needed


def du(home: Path, without: str = "none") -> int:
    """Return the bytes of files, not of databases, as du counts them."""
    folders = [str(home / name) for name in ("runs", "cache", "mlflow/artifacts")]
    command = ["du", "-sc", "-B1", f"--exclude={without}", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def files(ids: Sequence[str]) -> list[Path]:
    """Return all files in folders of runs."""
    return [path for run in ids for path in run_dir(run).rglob("*") if path.is_file()]


@contextmanager
def holding(ids: Sequence[str]) -> Iterator[None]:
    """Hold runs for the block, as their processes do."""
    with ExitStack() as stack:
        for run in ids:
            fd = run_setup.lock_run(run)
            assert fd is not None
            stack.callback(os.close, fd)
        yield


def clean(*extra: str) -> tuple[dict[str, Any], float]:
    """Return the receipt of `yard run housekeeping`, and the seconds that it took."""
    before = set(Path(os.environ["TRAINYARD_HOME"]).glob("runs/*/housekeeping/receipt.json"))
    keep = ["cache=20MB", "deleted_runs=1s"]
    settings = [word for one in keep for word in ("--set", f"keep.{one}")]
    begun = time.perf_counter()
    command = [str(Path(sys.executable).parent / "yard"), "run", "housekeeping", *settings, *extra]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    (path,) = set(Path(os.environ["TRAINYARD_HOME"]).glob("runs/*/housekeeping/receipt.json")) - before
    return {**json.loads(path.read_text()), "run": path.parents[1].name}, seconds


def measure(home: Path, n_runs: int, n_bytes: int) -> dict[str, Any]:
    """Fill the home, let housekeeping go through it, and return the figures."""
    rng = random.Random(0)
    kinds = [kind for kind, share in KINDS.items() for _ in range(round(share * n_runs))]
    (home / "data").mkdir()
    pictures = [home / "data" / f"{number}.jpg" for number in range(8)]
    for picture in pictures:
        picture.write_bytes(rng.randbytes(20_000))
    with connect() as api:
        ids = make_records(api, kinds)
    of = {kind: [run for run, its in zip(ids, kinds, strict=True) if its == kind] for kind in KINDS}
    make_old(home, [run for run, kind in zip(ids, kinds, strict=True) if kind not in ("waiting", "young")])
    for run, kind in zip(ids, kinds, strict=True):
        fill(run, kind, pictures, n_bytes // n_runs, rng)
    fill_cache(home, 1000)
    needed = fill_mlflow(home)
    time.sleep(1.1)
    # What is not sent yet can be sent without a checkpoint.
    ended = files([*of["checkpoints"], *of["unsent"]])
    stays = [path for path in ended if path.name != "checkpoint.pt"] + needed + pictures
    with holding(of["held"]):
        protected = files([run for kind in PROTECTED for run in of[kind]]) + stays
        planned, _ = clean("--set", "dry_run=true")
        before = du(home)
        receipt, seconds = clean()
        lost = before - du(home, without=receipt["run"])
    return {
        "runs": n_runs,
        "gigabytes": n_bytes / 1e9,
        "removed": {row["rule"]: row["removed"] for row in receipt["rules"]},
        "receipt_bytes": receipt["bytes"],
        "planned_bytes": planned["bytes"],
        "du_lost": lost,
        "receipt_ratio": round(receipt["bytes"] / lost, 6),
        "blocks_off": abs(receipt["bytes"] - lost) / 4096,
        "protected_files": len(protected),
        "protected_lost": sum(not path.exists() for path in protected),
        "due_left": sum(run_dir_there(home, run) for run in of["due"]),
        "notes": receipt["notes"],
        "seconds": round(seconds, 1),
    }


def run_dir_there(home: Path, run: str) -> bool:
    """Return whether the folder of a run is there, without making it."""
    return (home / "runs" / run).is_dir()


def main() -> None:
    """Measure once, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-housekeeping-") as folder:
        home = Path(folder)
        os.environ |= {"TRAINYARD_HOME": folder, "TRAINYARD_LOCK_DIR": str(home / "locks")}
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        prepare_environment()
        (home / "prefect").mkdir()
        service = prefect_service(free_port(), ui=False)
        os.environ["PREFECT_API_URL"] = service.env["PREFECT_API_URL"]
        with running(service):
            print(json.dumps(measure(home, args.runs, int(args.gigabytes * 1e9))))


if __name__ == "__main__":
    main()
