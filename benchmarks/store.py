"""How fast a folder goes through MLflow's artifact store to another host, against MLflow's own client.

`python benchmarks/store.py [--images 1500] [--mib 192] [--rounds 3]`; the last line is one JSON object. MLflow's server
runs on this machine with its files in a folder. Both sides send a data set of small files and a checkpoint, then bring
both into an empty folder; ours also holds every byte against its digest, and writes each file whole.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import mlflow

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deployments.services.service import free_port
from tasks.store.folder import SharedFolder
from tasks.store.objects import Objects


def make(folder: Path, n_images: int, n_mib: int) -> int:
    """Write a data set of files of 8 to 40 kB, and a checkpoint; return the bytes of both."""
    for number in range(n_images):
        path = folder / "split" / f"class{number % 8}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(8_000 + number * 7919 % 32_000))
    (folder / "training").mkdir()
    with (folder / "training" / "checkpoint.pt").open("wb") as file:
        for _ in range(n_mib):
            file.write(os.urandom(2**20))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ours(url: str, source: Path, target: Path, number: int) -> tuple[float, float, float]:
    """Return the seconds to send, to bring, and to send once more when one file in a thousand has changed."""
    with Objects(url) as objects:
        name = f"runs/round-{number}"
        sent = seconds(lambda: SharedFolder(source, name, objects).send("one"))
        brought = seconds(lambda: SharedFolder(target, name, objects).bring())
        next((source / "split").rglob("*.jpg")).write_bytes(os.urandom(20_000))
        again = seconds(lambda: SharedFolder(source, name, objects).send("one"))
    return sent, brought, again


def peer(url: str, source: Path, target: Path) -> tuple[float, float]:
    """Return the same by MLflow's own client."""
    client = mlflow.MlflowClient(url)
    run = client.create_run("0")
    sent = seconds(lambda: client.log_artifacts(run.info.run_id, str(source)))
    brought = seconds(lambda: client.download_artifacts(run.info.run_id, "", str(target)))
    return sent, brought


def main() -> None:
    """Measure both in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in (("images", 1500), ("mib", 192), ("rounds", 3)):
        parser.add_argument(f"--{option}", type=int, default=default)
    args = parser.parse_args()
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    rows: dict[str, list[float]] = {name: [] for name in ("sent", "brought", "again", "peer_sent", "peer_brought")}
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        root, port = Path(tmp), free_port()
        places = ["--backend-store-uri", f"sqlite:///{root}/m.db", "--artifacts-destination", str(root / "files")]
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port), *places]
        with (root / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            while not _answers(url):
                time.sleep(0.2)
            for number in range(args.rounds + 1):
                folders = [root / f"{number}-{part}" for part in ("source", "ours", "peer")]
                for folder in folders:
                    folder.mkdir()
                n_bytes = make(folders[0], args.images, args.mib)
                theirs = peer(url, folders[0], folders[2])
                found = dict(zip(rows, (*ours(url, folders[0], folders[1], number), *theirs), strict=True))
                for name, value in found.items() if number else ():  # the first round warms up
                    rows[name].append(value)
                for folder in folders:
                    shutil.rmtree(folder)
        finally:
            server.terminate()
            server.wait()
    report(n_bytes, {name: statistics.median(values) for name, values in rows.items()})


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def report(n_bytes: int, found: dict[str, float]) -> None:
    """Print the table and the figures."""
    mb = n_bytes / 1e6
    print(f"{mb:.0f} MB             ours     MLflow's client")
    for what, own, other in (("send", "sent", "peer_sent"), ("bring", "brought", "peer_brought")):
        print(f"{what:<6}{mb / found[own]:12.1f} MB/s {mb / found[other]:12.1f} MB/s")
    print(f"send again, one file changed: {found['again']:.2f} s")
    ratios = [found["peer_sent"] / found["sent"], found["peer_brought"] / found["brought"]]
    figures = {f"{name}_s": round(value, 2) for name, value in found.items()}
    shown = {"ratio": round(min(ratios), 2), "ratio_send": round(ratios[0], 2), "ratio_bring": round(ratios[1], 2)}
    print(json.dumps({**shown, **figures, "mb": round(mb)}))


if __name__ == "__main__":
    main()
