"""Twenty submissions at once and a hundred statuses at once, the sustained rates, and a queue of a thousand.

The peers are the replaced service's own figures: 0.85 s for twenty creations, 0.32 s for a hundred queries.

    python benchmarks/submit_rate.py [--waiting 1000] [--repeats 5]
"""

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_yard import BenchYard, bench_yard

PEER_CREATES_S, PEER_READS_S = 0.85, 0.32
QUEUE = "cpu.training"  # its limit is set to 0: what is submitted there stays


def creates(yard: BenchYard, n: int) -> float:
    """Return the seconds for `n` submissions by as many people at once."""
    path = f"/deployments/{yard.deployment}/create_flow_run"
    begun = time.perf_counter()
    with ThreadPoolExecutor(n) as people:
        list(people.map(lambda _: yard.post(path, yard.order(0, QUEUE)), range(n)))
    return time.perf_counter() - begun


def bulk(yard: BenchYard, n: int) -> float:
    """Return the seconds for `n` submissions in one call, as `yard` makes them."""
    path = f"/deployments/{yard.deployment}/create_flow_run/bulk"
    begun = time.perf_counter()
    yard.post(path, [yard.order(0, QUEUE) for _ in range(n)])
    return time.perf_counter() - begun


def reads(yard: BenchYard, ids: list[str]) -> float:
    """Return the seconds for the states of these runs in one call, as `yard` asks for them."""
    begun = time.perf_counter()
    found = yard.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": ids}}, "limit": 200})
    assert len(found) == len(ids)
    return time.perf_counter() - begun


def single_reads(yard: BenchYard, ids: list[str]) -> float:
    """Return the seconds for the states of these runs, one call each, twenty at a time."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(20) as people:
        list(people.map(lambda run: yard.http.get(f"/flow_runs/{run}").raise_for_status(), ids))
    return time.perf_counter() - begun


def gap(yard: BenchYard, repeats: int) -> float:
    """Return the median gap between two short runs on the device, seconds."""
    notes = yard.wait([yard.submit(1, "cuda:0.training") for _ in range(repeats + 1)])
    ordered = sorted(notes, key=lambda note: note["begin"])
    return statistics.median(b["begin"] - a["end"] for a, b in zip(ordered, ordered[1:], strict=False))


def main() -> None:
    """Run the parts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with bench_yard() as yard:
        yard.http.patch(f"/work_pools/gpu/queues/{QUEUE}", json={"concurrency_limit": 0}).raise_for_status()
        time.sleep(5)
        empty = gap(yard, 8)
        at_once = [creates(yard, 20) for _ in range(args.repeats)]
        in_one = [bulk(yard, 20) for _ in range(args.repeats)]
        known = [run["id"] for run in yard.post("/flow_runs/filter", {"limit": 100})]
        one_call = [reads(yard, known) for _ in range(args.repeats)]
        each = [single_reads(yard, known) for _ in range(args.repeats)]
        n_waiting = 40 * args.repeats
        begun = time.perf_counter()
        while n_waiting < args.waiting:
            bulk(yard, 100)
            n_waiting += 100
        rate = max(0, args.waiting - 40 * args.repeats) / (time.perf_counter() - begun)
        time.sleep(10)
        full = gap(yard, 8)
        database = yard.database
    creates_s, reads_s = statistics.median(in_one), statistics.median(one_call)
    print(f"{database}, {n_waiting} runs waiting at the end")
    print(f"{'':<52}{'here':>9}{'replaced':>10}")
    print(f"{'20 submissions in one call, s':<52}{creates_s:>9.2f}{PEER_CREATES_S:>10.2f}")
    print(f"{'20 submissions by 20 people at once, s':<52}{statistics.median(at_once):>9.2f}{PEER_CREATES_S:>10.2f}")
    print(f"{'100 statuses in one call, s':<52}{reads_s:>9.2f}{PEER_READS_S:>10.2f}")
    print(f"{'100 statuses one by one, s':<52}{statistics.median(each):>9.2f}{PEER_READS_S:>10.2f}")
    print(f"{'sustained submissions (bulk), 1/s':<52}{rate:>9.0f}")
    print(f"{'sustained statuses (one by one), 1/s':<52}{100 / statistics.median(each):>9.0f}")
    print(f"{'gap between two runs, queue empty, s':<52}{empty:>9.2f}")
    print(f"{f'gap between two runs, {n_waiting} waiting, s':<52}{full:>9.2f}")
    print(
        json.dumps(
            {
                "ratio": round(full / empty, 3),
                "creates_20_s": round(creates_s, 3),
                "creates_20_people_s": round(statistics.median(at_once), 3),
                "reads_100_s": round(reads_s, 3),
                "reads_100_single_s": round(statistics.median(each), 3),
                "creates_per_s": round(rate, 1),
                "reads_per_s": round(100 / statistics.median(each), 1),
                "gap_empty_s": round(empty, 3),
                "gap_full_s": round(full, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
