"""Runs, workers and the server killed, stopped and cancelled at random: exclusivity holds and nothing is lost.

CHAOS_RUNS (default 24) and CHAOS_SEED (default 0) set how many runs and which dice.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from deployments.services.service import free_port
from gpu_pools.slots.lease import holders
from tests.chaos.yard import FINAL, Yard, yard

N_RUNS = int(os.environ.get("CHAOS_RUNS", "24"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
AT_ONCE = 12  # runs that wait or run, at most: the rest comes later
QUEUES = ["cuda.training"] * 3 + ["cuda:0.training", "cuda:1.training", "cuda.inference", "cuda:1.inference"]
LIMITS = {"training": 1, "inference": 3}

pytestmark = [pytest.mark.yard, pytest.mark.timeout(max(900, 60 * N_RUNS))]


class Chaos:
    """Does one thing at random at each `step`, and counts what it did."""

    def __init__(self, made: Yard, dice: random.Random) -> None:
        self.made, self.dice = made, dice
        self.done: Counter[str] = Counter()
        self.runs: list[str] = []
        self.cancelled: set[str] = set()
        self.killed: set[int] = set()
        self.later: list[tuple[float, Callable[[], object]]] = []

    def step(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self.later if entry[0] <= now]:
            self.later.remove(entry)
            entry[1]()
        actions = [self.kill_run] * 3 + [self.stop_run] * 2 + [self.cancel] * 2 + [self.kill_worker] * 2
        self.dice.choice([*actions, self.stop_worker, self.kill_server, self.nothing, self.nothing])()

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self.later.append((time.monotonic() + seconds, what))

    def nothing(self) -> None:
        self.done["nothing"] += 1

    def _living(self) -> list[int]:
        return [span["pid"] for span in self.made.spans() if not span["end"] and _alive(span["pid"])]

    def kill_run(self) -> None:
        for pid in self.dice.sample(pids := self._living(), min(1, len(pids))):
            self.killed.add(pid)
            _send(pid, signal.SIGKILL)
            self.done["runs killed"] += 1

    def stop_run(self) -> None:
        for pid in self.dice.sample(pids := self._living(), min(1, len(pids))):
            _send(pid, signal.SIGSTOP)
            self.after(self.dice.uniform(0.5, 4), partial(_send, pid, signal.SIGCONT))
            self.done["runs stopped for a while"] += 1

    def cancel(self) -> None:
        states = self.made.states()
        open_runs = [run for run in self.runs if states[run]["type"] not in FINAL and run not in self.cancelled]
        for run in self.dice.sample(open_runs, min(1, len(open_runs))):
            self.cancelled.add(run)
            self.made.cancel(run)
            self.done["cancelled"] += 1

    def kill_worker(self) -> None:
        name = self.dice.choice(sorted(self.made.workers))
        worker = self.made.workers[name]
        if worker.poll() is None:
            self.made.kill(worker)
            self.after(self.dice.uniform(0, 4), partial(self.made.start_worker, name))
            self.done["workers killed"] += 1

    def stop_worker(self) -> None:
        worker = self.made.workers[self.dice.choice(sorted(self.made.workers))]
        if worker.poll() is None:
            worker.send_signal(signal.SIGSTOP)
            self.after(self.dice.uniform(0.5, 4), partial(worker.send_signal, signal.SIGCONT))
            self.done["workers stopped for a while"] += 1

    def kill_server(self) -> None:
        if self.dice.random() < 0.5:  # it takes some seconds to be back
            self.made.kill(self.made.server)
            time.sleep(self.dice.uniform(0, 2))
            self.made.start_server()
            self.done["servers killed"] += 1

    def submit(self) -> None:
        queue = self.dice.choice(QUEUES)
        seconds = self.dice.uniform(0.2, 2)
        run = self.made.hold(queue, seconds, child=self.dice.random() < 0.2, priority=self.dice.randint(1, 10))
        self.runs.append(run)

    def settle(self) -> None:
        """Undo what is still to be undone, and wait for the last run."""
        for _, what in sorted(self.later, key=lambda entry: entry[0]):
            what()
        for name, worker in self.made.workers.items():
            if worker.poll() is not None:
                self.made.start_worker(name)
        self.made.until(lambda: all(s["type"] in FINAL for s in self.made.states().values()), 300, "all runs end")


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended meanwhile


def most_at_once(spans: list[dict]) -> int:
    """Return how many of these spans overlap at most."""
    moments = sorted([(s["begin"], 1) for s in spans] + [(s["last"], -1) for s in spans])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def test_exclusivity_holds_and_nothing_is_lost(tmp_path, monkeypatch):
    dice, n_told = random.Random(SEED), 0
    with yard(tmp_path, free_port()) as made:
        made.start_worker("two")
        made.until(lambda: made.serves("two"), 60, "the second worker serves")
        chaos, begun = Chaos(made, dice), time.monotonic()
        while len(chaos.runs) < N_RUNS:
            if len(chaos.runs) // 100 > n_told:
                n_told = len(chaos.runs) // 100
                print(f"{len(chaos.runs)} of {N_RUNS} submitted, {time.monotonic() - begun:.0f} s", flush=True)
            n_open = sum(state["type"] not in FINAL for state in made.states().values())
            for _ in range(min(AT_ONCE - n_open, N_RUNS - len(chaos.runs))):
                chaos.submit()
            chaos.step()
            time.sleep(dice.uniform(0.2, 1))
        for _ in range(10):
            chaos.step()
            time.sleep(dice.uniform(0.2, 1))
        chaos.settle()
        states, spans = made.states(), made.spans()
        made.until(lambda: not [pid for pid in made.left() if pid in {s["pid"] for s in spans}], 30, "no process left")
        monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
        made.until(lambda: not holders(), 30, "every slot is free")
        check(chaos, states, spans)


def check(chaos: Chaos, states: dict, spans: list[dict]) -> None:
    ends = Counter(state["type"] for state in states.values())
    print(f"\n{len(chaos.runs)} runs, {len(spans)} processes: {dict(ends)}; did: {dict(chaos.done)}")
    for slot in {span["slot"] for span in spans}:
        assert most_at_once([span for span in spans if span["slot"] == slot]) <= 1, slot
    for device in {span["slot"].split(".")[0] for span in spans}:
        for kind, limit in LIMITS.items():
            held = [span for span in spans if span["slot"].startswith(f"{device}.{kind}.")]
            assert most_at_once(held) <= limit, (device, kind)
    assert set(states) == set(chaos.runs)
    for run in chaos.runs:
        mine = [span for span in spans if span["run"] == run]
        kind = states[run]["type"]
        assert most_at_once(mine) <= 1, f"two processes of run {run} at once"
        # A process that was killed after its last line and before it could report it is run again.
        assert sum(span["end"] and span["pid"] not in chaos.killed for span in mine) <= 1, f"run {run} ended twice"
        if kind == "COMPLETED":
            assert any(span["end"] for span in mine), f"run {run} is completed and never ended"
        elif kind == "CANCELLED":
            assert run in chaos.cancelled, f"run {run} is cancelled, by nobody"
        else:
            n_killed = sum(span["pid"] in chaos.killed for span in mine)
            assert kind == "CRASHED", (run, states[run])
            assert n_killed >= 4, f"run {run} was given up after {n_killed} kills: {states[run]['message']}"
