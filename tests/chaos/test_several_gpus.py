"""Runs on several GPUs of a real yard: all their slots or none, whoever of them is killed, and none waits for ever.

CHAOS_RUNS (default 24) and CHAOS_SEED (default 0) set how many runs and which dice.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from deployments.services.service import free_port
from gpu_pools.slots.lease import holders
from tests.chaos.test_chaos import most_at_once
from tests.chaos.yard import FINAL, ROOT, RUNS, Yard, yard

N_RUNS = int(os.environ.get("CHAOS_RUNS", "24"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
ALL = "cuda:0,cuda:1,cuda:2,cuda:3"

pytestmark = [pytest.mark.yard, pytest.mark.timeout(max(900, 60 * N_RUNS))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port(), n_gpus=4) as running:
        running.deploy("several", f"{RUNS}.several", "cuda.training")
        yield running


@pytest.fixture(autouse=True)
def _ends(request):
    """Cancel what a test of the shared yard has left, so that the next one finds all GPUs free."""
    yield
    if "made" in request.fixturenames:
        yard = request.getfixturevalue("made")
        for run_id in (run_id for run_id, state in yard.states().items() if state["type"] not in FINAL):
            yard.cancel(run_id)
        yard.until(lambda: all(state["type"] in FINAL for state in yard.states().values()), 90, "all are cancelled")


def submit(made: Yard, n_devices: int, seconds: float, queue: str = "cuda.training", **variables: Any) -> str:
    train = {"n_devices": n_devices, "device": "cuda"}
    parameters = {"folder": str(made.home), "train": train, "seconds": seconds}
    return made.submit("several", queue, parameters, **variables)


def message(made: Yard, run_id: str) -> str:
    return str(made.state(run_id)["message"] or "")


def says(made: Yard, run_id: str, words: str) -> Any:
    return lambda: words in message(made, run_id)


def command(made: Yard, *words: str) -> str:
    argv = [sys.executable, "-m", "deployments.cli.app", *words]
    done = subprocess.run(argv, env=made.env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill(*pids: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_wide_run_gathers_its_gpus_and_says_so_and_short_ones_fill_the_gap(made):
    first = [submit(made, 1, 40) for _ in range(3)]
    made.until(lambda: all(made.of(run) for run in first), 90, "three GPUs are taken")
    wide = submit(made, 4, 3)
    made.until(says(made, wide, "gathers 4 GPUs: cuda:3 is kept for it; cuda:0 is training"), 60, "it gathers")
    open_end = submit(made, 1, 1)
    made.until(says(made, open_end, "cuda:3 is kept for "), 60, "another waits for it")
    assert ", which gathers 4 GPUs until about " in message(made, open_end)
    short = submit(made, 1, 1, time_limit="8s")
    made.until(made.begun(short), 30, "one that ends in time starts before it")
    assert not made.of(wide)
    made.until(made.begun(wide), 120, "it has all")
    assert made.of(wide)[0]["on"] == ALL
    assert made.of(wide)[0]["visible"] == ",".join(f"GPU-simulated-{n}" for n in range(4))
    made.until(made.is_(open_end, "COMPLETED"), 90, "and the other after it")
    assert made.of(open_end)[0]["begin"] > made.of(wide)[0]["last"] - 0.2


def test_commands_show_all_its_gpus(made):
    run = submit(made, 2, 300)
    made.until(made.begun(run), 60, "it begins")
    on = made.of(run)[0]["on"]
    devices = command(made, "devices")
    assert devices.count("runs    training: ") == 2, devices
    made.until(lambda: on in command(made, "runs"), 30, "yard runs shows both")
    assert on in command(made, "show", run)
    assert command(made, "top", "--once").count("epoch 0 of 10") >= 2
    labels = made.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})[0]["labels"]
    assert labels["trainyard.device"] == on
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 60, "it is cancelled")


@pytest.mark.parametrize(
    ("n_devices", "queue", "text"),
    [
        (5, "cuda.training", "found 4 GPUs on {host}, need 5 for n_devices 5"),
        (2, "cuda:1.training", "found device cuda:1 for n_devices 2, need cuda or {host}/cuda"),
        (2, "cpu.training", "found device cpu for n_devices 2, need cuda or {host}/cuda"),
    ],
)
def test_what_can_never_start_fails_at_once(made, n_devices, queue, text):
    run = submit(made, n_devices, 1, queue)
    made.until(made.is_(run, "FAILED"), 60, "it fails")
    assert message(made, run) == text.format(host=os.uname().nodename.partition(".")[0])


def test_a_wide_run_that_is_killed_keeps_its_slots_while_others_wait(made):
    run = submit(made, 4, 120)
    made.until(made.begun(run), 60, "it begins")
    waiting = [submit(made, 1, 0.5, priority=1) for _ in range(4)]
    made.until(says(made, waiting[-1], "all GPUs are taken"), 60, "others wait")
    kill(made.pid(run))
    made.until(made.begun(run, 2), 60, "it goes on")
    assert not any(made.of(one) for one in waiting)
    assert [span["on"] for span in made.of(run)] == [ALL, ALL]
    made.cancel(run)
    made.until(lambda: all(made.state(one)["type"] in FINAL for one in waiting), 90, "then the others")


def test_a_child_that_outlives_its_run_keeps_all_slots_and_a_new_worker_ends_it(made, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", made.env["TRAINYARD_LOCK_DIR"])
    run = submit(made, 3, 300)
    made.until(made.begun(run), 60, "it begins")
    (span,) = made.of(run)
    made.kill(made.workers["one"])
    kill(span["pid"])
    time.sleep(1)
    assert len(holders()) == 3  # by its child alone
    made.start_worker("one")
    made.until(made.begun(run, 2), 90, "the new worker starts it again")
    assert made.of(run)[1]["on"] == span["on"]
    assert not os.path.exists(f"/proc/{span['child']}")
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 60, "it is cancelled")
    made.until(lambda: not holders(), 30, "all slots are free")


def test_a_worker_that_is_killed_and_restarted_adopts_it_with_all_its_slots(made, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", made.env["TRAINYARD_LOCK_DIR"])
    run = submit(made, 4, 25)
    made.until(made.begun(run), 60, "it begins")
    made.kill(made.workers["one"])
    made.start_worker("one")
    later = submit(made, 1, 0.5)
    made.until(says(made, later, "all GPUs are taken"), 90, "another waits for it")
    assert len(holders()) == 4
    made.until(made.is_(run, "COMPLETED"), 90, "it ends well")
    assert len(made.of(run)) == 1
    made.until(made.is_(later, "COMPLETED"), 60, "the other follows")


def test_wide_runs_among_single_ones_all_killed_at_random(tmp_path, monkeypatch):
    dice, did = random.Random(SEED), Counter[str]()
    with yard(tmp_path, free_port(), n_gpus=4) as made:
        made.deploy("several", f"{RUNS}.several", "cuda.training")
        runs: dict[str, int] = {}
        killed: set[int] = set()
        while len(runs) < N_RUNS:
            n_open = sum(state["type"] not in FINAL for state in made.states().values())
            for _ in range(min(8 - n_open, N_RUNS - len(runs))):
                n = dice.choice([1, 1, 1, 2, 3, 4])
                runs[submit(made, n, dice.uniform(0.3, 3), priority=dice.randint(1, 10))] = n
            living = [span for span in made.spans() if not span["end"] and os.path.exists(f"/proc/{span['pid']}")]
            what = dice.choice(["run", "run", "child", "worker", "nothing", "nothing"])
            if what == "worker":
                made.kill(made.workers["one"])
                time.sleep(dice.uniform(0, 2))
                made.start_worker("one")
            elif living and what != "nothing":
                span = dice.choice(living)
                killed |= {span["pid"]} if what == "run" else set()
                kill(span["pid"] if what == "run" else span["child"])
            did[what] += 1
            time.sleep(dice.uniform(0.2, 1))
        made.until(lambda: all(s["type"] in FINAL for s in made.states().values()), 300, "all runs end")
        monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
        made.until(lambda: not holders(), 30, "every slot is free")
        states, spans = made.states(), made.spans()
    print(f"\n{len(runs)} runs, {len(spans)} processes: {Counter(s['type'] for s in states.values())}; did: {did}")
    for slot in {slot for span in spans for slot in span["slots"]}:
        assert slot.endswith(".training.0.run")
        assert most_at_once([span for span in spans if slot in span["slots"]]) <= 1, slot
    for span in spans:
        assert len(span["slots"]) == runs[span["run"]] == len(span["visible"].split(","))
    for run in runs:
        mine = [span for span in spans if span["run"] == run]
        assert most_at_once(mine) <= 1, f"two processes of run {run} at once"
        if states[run]["type"] == "COMPLETED":
            assert any(span["end"] for span in mine)
        else:
            n_killed = sum(span["pid"] in killed for span in mine)
            assert (states[run]["type"], n_killed >= 4) == ("CRASHED", True), states[run]
