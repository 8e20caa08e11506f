"""A run starts beside others on a GPU where its forecast fits, and waits or goes elsewhere where it does not."""

import random
from dataclasses import replace

import pytest

from gpu_pools.placement.devices import simulated
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import DeviceState, Start, Wait, place
from gpu_pools.placement.probe import SimulatedProbe
from gpu_pools.placement.queues import Queue
from gpu_pools.sharing.memory_forecast import PATIENCE_S, MemoryRules, taken_mib, too_large
from gpu_pools.slots.slot_files import Holder

NOW = 1_000_000.0
TOTAL = 24 * 1024


def asks(name: str, mib: int | None, device: str = "cuda:0", waited: float = 0.0) -> Waiting:
    source = "measured in 2 runs" if mib else ""
    own = (name, name, Queue(device, "training"), 5, NOW - waited, "ben@boxa")
    return Waiting(*own, memory_mib=mib, memory_source=source)


def holder(name: str, mib: int | None, index: int = 0) -> Holder:
    uuid = f"GPU-{index}"
    return Holder(name, name, "anna@boxa", f"cuda:{index}", uuid, "training", 0, 1, NOW - 60, None, mib, "measured")


def gpu(
    *held: Holder, used: int = 0, by_run: dict[str, int] | None = None, index: int = 0, slots: int = 4
) -> DeviceState:
    return DeviceState(
        *(f"cuda:{index}", f"GPU-{index}", "H", {"training": slots}, held, used, 0, (), frozenset()),
        memory_total_mib=TOTAL,
        memory_by_run=by_run or {},
    )


def decide(waiting: list[Waiting], *devices: DeviceState):
    rules = [MemoryRules(lambda: NOW).rule(waiting)]
    return {d.run_id: d for d in place(waiting, devices, host="boxa", now=NOW, rules=rules)}


def test_a_run_that_does_not_fit_waits_and_says_for_whom():
    full = gpu(holder("big", 16 * 1024))
    assert decide([asks("b", 14_336)], full)["b"] == Wait(
        "b", "needs about 14 GB (measured in 2 runs), cuda:0 has 8.0 GB free: big of anna@boxa uses 16 GB"
    )
    assert isinstance(decide([asks("small", 4096)], full)["small"], Start)


def test_it_goes_to_another_gpu_if_it_may():
    devices = (gpu(holder("big", 16 * 1024)), gpu(holder("small", 2048, 1), index=1))
    assert decide([asks("b", 14_336, "cuda")], *devices)["b"] == Start("b", ("GPU-1",))


def test_what_a_run_uses_counts_where_it_is_more_than_its_forecast():
    device = gpu(holder("a", 1024), used=20_000, by_run={"a": 20_000})
    assert isinstance(decide([asks("b", 8192)], device)["b"], Wait)


def test_a_run_of_which_nothing_is_known_starts_and_counts_with_what_it_uses():
    assert isinstance(decide([asks("b", None)], gpu(holder("a", 20_000)))["b"], Start)
    assert isinstance(decide([asks("b", 8192)], gpu(holder("a", None), used=20_000, by_run={"a": 20_000}))["b"], Wait)


def test_two_that_start_together_are_held_against_each_other():
    found = decide([asks("a", 14_000), asks("b", 14_000)], gpu())
    assert sorted(type(d).__name__ for d in found.values()) == ["Start", "Wait"]
    (wait,) = (d for d in found.values() if isinstance(d, Wait))
    assert "has 10 GB free: a of ben@boxa uses 14 GB" in wait.reason


def test_a_gpu_that_nobody_has_takes_whatever_is_forecast():
    assert isinstance(decide([asks("b", 10 * TOTAL)], gpu())["b"], Start)


def test_one_that_starts_on_too_small_a_gpu_is_told_so():
    probe = SimulatedProbe(1)
    own = replace(holder("a", 60_000), uuid=simulated(0).uuid)
    assert too_large(own, probe) == (
        "cuda:0 has 24 GB and the run needs about 59 GB (measured); it starts all the same, as that may be wrong, and "
        "trainings halve their batches where memory runs out"
    )
    assert too_large(replace(own, memory_mib=10), probe) == too_large(replace(own, memory_mib=None), probe) == ""


@pytest.mark.parametrize(
    ("held", "used", "by_run", "taken"),
    [
        ([holder("a", 5000), holder("b", 3000)], 6000, {"a": 6000}, 9000),  # b has allocated nothing yet
        ([holder("a", 5000)], 8000, {"a": 4000}, 9000),  # a desktop has 4000
        ([holder("a", 5000), holder("b", 3000)], 6000, {}, 8000),  # in a container nobody can tell who has what
        ([holder("a", 5000), holder("b", 3000)], 9000, {}, 9000),
        ([holder("a", None)], 700, {}, 700),
    ],
)
def test_what_is_taken(held, used, by_run, taken):
    assert taken_mib(gpu(*held, used=used, by_run=by_run), held, ()) == taken


def test_room_is_made_for_a_large_run_that_has_waited_for_long():
    device = gpu(holder("a", 12_000))
    large, small = asks("large", 20_000, waited=PATIENCE_S), asks("small", 2000, waited=10)
    found = decide([large, small], device)
    assert isinstance(found["large"], Wait)
    assert found["small"] == Wait(
        "small", "cuda:0 is kept for large of ben@boxa, which needs about 20 GB (measured in 2 runs) and waits for room"
    )
    assert isinstance(decide([replace(large, since=NOW - 60), small], device)["small"], Start)


def test_no_room_is_made_for_one_that_has_no_slot_or_is_paused():
    large, small = asks("large", 20_000, waited=PATIENCE_S), asks("small", 2000, "cuda", waited=10)
    other = gpu(holder("b", 2000, 1), index=1)
    assert decide([large, small], gpu(holder("a", 12_000), slots=1), other)["small"] == Start("small", ("GPU-1",))
    paused = replace(gpu(holder("a", 12_000)), paused=frozenset({"cuda:0.training"}))
    assert decide([large, small], paused, other)["small"] == Start("small", ("GPU-1",))


def test_forecasts_never_exceed_a_shared_gpu_and_nobody_waits_for_ever():
    """On one GPU of four slots, with runs that come and go: at most its memory is promised, and all runs start."""
    chance, running, waiting, started = random.Random(0), dict[str, tuple[int, float]](), list[Waiting](), set[str]()
    minute = 60.0
    for step in range(600):
        now = NOW + step * minute
        if step < 400 and chance.random() < 0.5:
            mib = 22_000 if chance.random() < 0.05 else chance.randint(1000, 9000)
            waiting.append(replace(asks(f"r{step}", mib), since=now))
        running = {name: (mib, end) for name, (mib, end) in running.items() if end > now}
        device = gpu(*(holder(name, mib) for name, (mib, _) in running.items()))
        rules = [MemoryRules(lambda now=now: now).rule(waiting)]
        for decision in place(waiting, [device], host="boxa", now=now, rules=rules):
            if isinstance(decision, Start):
                run = next(run for run in waiting if run.run_id == decision.run_id)
                waiting.remove(run)
                started.add(run.run_id)
                running[run.run_id] = (run.memory_mib or 0, now + chance.randint(2, 9) * minute)
                assert now - run.since < 3 * PATIENCE_S
        assert len(running) == 1 or sum(mib for mib, _ in running.values()) <= TOTAL
    assert not waiting
    assert len(started) > 150
