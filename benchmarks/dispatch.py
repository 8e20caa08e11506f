"""From submission to the first line of a run, the gap between two runs on a device, and how busy it is kept.

The peer is the process itself: a bare `python -c` that imports Prefect's engine, as any start of a run from nothing
has to. The device is simulated; server, worker, leases and processes are the real ones.

    python benchmarks/dispatch.py [--submits 20] [--short 50] [--long 50] [--seconds 10]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_yard import BenchYard, bench_yard


def latencies(yard: BenchYard, n: int) -> list[float]:
    """Return the seconds from submission to the first line, on an idle yard."""
    found = []
    for _ in range(n):
        time.sleep(4)  # idle: the worker has a process ready again
        submitted = time.time()
        (note,) = yard.wait([yard.submit(0)])
        found.append(note["begin"] - submitted)
    return found


def gaps(notes: list[dict[str, float]]) -> list[float]:
    """Return the seconds between the last line of a run and the first of the next."""
    ordered = sorted(notes, key=lambda note: note["begin"])
    return [b["begin"] - a["end"] for a, b in zip(ordered, ordered[1:], strict=False)]


def bare_starts(n: int) -> list[float]:
    """Return the seconds that Python takes to import Prefect's engine."""
    found = []
    for _ in range(n):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import prefect.flow_engine"], check=True)
        found.append(time.perf_counter() - begun)
    return found


def p95(values: list[float]) -> float:
    """Return the value that 95 of 100 stay below."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def main() -> None:
    """Run the three parts and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--submits", type=int, default=20)
    parser.add_argument("--short", type=int, default=50)
    parser.add_argument("--long", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    with bench_yard() as yard:
        first = latencies(yard, args.submits)
        bare = bare_starts(5)
        short = gaps(yard.wait([yard.submit(0.5) for _ in range(args.short)]))
        long = yard.wait([yard.submit(args.seconds) for _ in range(args.long)])
        database = yard.database
    span = max(note["end"] for note in long) - min(note["begin"] for note in long)
    busy = sum(note["end"] - note["begin"] for note in long) / span
    gap = statistics.median(short)
    print(f"one simulated GPU, {database}")
    print(f"{'':<44}{'median':>9}{'p95':>9}")
    print(f"{'submission to first line, s':<44}{statistics.median(first):>9.2f}{p95(first):>9.2f}")
    print(f"{'gap between two runs of 0.5 s, s':<44}{gap:>9.2f}{p95(short):>9.2f}")
    print(f"{'gap between two long runs, s':<44}{statistics.median(gaps(long)):>9.2f}{p95(gaps(long)):>9.2f}")
    print(f"{'bare import of the engine, s':<44}{statistics.median(bare):>9.2f}{p95(bare):>9.2f}")
    print(f"share of the time the device was busy with {args.long} runs of {args.seconds:g} s: {busy:.1%}")
    print(
        json.dumps(
            {
                "ratio": round(gap / statistics.median(bare), 3),
                "submit_to_first_line_median_s": round(statistics.median(first), 3),
                "submit_to_first_line_p95_s": round(p95(first), 3),
                "idle_gap_median_s": round(gap, 3),
                "idle_gap_p95_s": round(p95(short), 3),
                "busy_share": round(busy, 4),
                "bare_import_s": round(statistics.median(bare), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
