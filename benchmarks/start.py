"""From `yard run` to the run's first word, its beginning and the beginning of its first stage, with no server up.

The peer is what a run waits for in any case: Prefect's own server, started alone in the same way, until it answers.
Runs and bare servers take turns, on a home that has its tables already. On two idle cores a run begins within 4 s, and
its first stage within 1 s more.

    python benchmarks/start.py [--runs 7]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deployments.services.programs import prefect_service
from deployments.services.service import free_port, running

MARKS = {"first word": "yard ", "flow begins": "Beginning flow run", "first stage begins": "Beginning subflow run"}
ROW = "{:<42}{:>9}{:>9}"


def make_pictures(folder: Path) -> None:
    """Write two classes of twenty small images."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            cv2.imwrite(str(folder / name / f"{i}.png"), generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))


def start_run(data: Path, env: dict[str, str]) -> dict[str, float]:
    """Return the seconds from the command to each of the marks in what it prints.

    Raises:
        RuntimeError: the run failed or did not print them; with all that it printed.
    """
    train = {"model": "mobilenet_v3_small", "pretrained": "false", "num_epochs": "1", "image_size": "32"}
    options = [word for name, value in train.items() for word in ("--set", f"train.{name}={value}")]
    command = [
        sys.executable,
        "-m",
        "deployments.cli.app",
        "run",
        "classification",
        "--data",
        str(data),
        "--device",
        "cpu",
    ]
    found: dict[str, float] = {}
    lines = []
    begun = time.perf_counter()
    with subprocess.Popen(
        [*command, *options], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            for mark, words in MARKS.items():
                if words in line:
                    found.setdefault(mark, time.perf_counter() - begun)
    if process.returncode or len(found) < len(MARKS):
        raise RuntimeError(f"exit code {process.returncode}, found {found} in:\n{''.join(lines)}")
    return found


def start_server() -> float:
    """Return the seconds that Prefect's server takes to answer when nothing else is started."""
    begun = time.perf_counter()
    with running(prefect_service(free_port(), ui=False)):
        return time.perf_counter() - begun


def main() -> None:
    """Start runs and servers in turn, and print the metrics."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    runs: list[dict[str, float]] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        os.environ |= {"TRAINYARD_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
        make_pictures(Path(folder) / "data")
        env = {k: v for k, v in os.environ.items() if k not in {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"}}
        start_run(Path(folder) / "data", env)  # makes the tables, compiles the bytecode
        for _ in range(args.runs):
            time.sleep(3)  # the server of the last run has ended
            runs.append(start_run(Path(folder) / "data", env))
            time.sleep(3)
            bare.append(start_server())
    report(runs, bare)


def report(runs: list[dict[str, float]], bare: list[float]) -> None:
    """Print the table and the line of JSON."""
    begins = [run["flow begins"] for run in runs]
    rows: dict[str, list[float]] = {
        "command to first word, s": [run["first word"] for run in runs],
        "command to the beginning of the flow, s": begins,
        "from there to its first stage, s": [run["first stage begins"] - run["flow begins"] for run in runs],
        "Prefect's server alone, s": bare,
    }
    print(ROW.format("", "median", "most"))
    for name, values in rows.items():
        print(ROW.format(name, f"{statistics.median(values):.2f}", f"{max(values):.2f}"))
    medians = [round(statistics.median(values), 3) for values in rows.values()]
    figures: dict[str, Any] = {"ratio": round(medians[1] / medians[3], 3), "n": len(runs)}
    print(json.dumps(figures | dict(zip(("word_s", "begin_s", "half_s", "server_s"), medians, strict=True))))


if __name__ == "__main__":
    main()
