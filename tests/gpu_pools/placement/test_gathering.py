"""Runs that need several GPUs at once: all or none, and sooner or later all of them."""

import heapq
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pools.placement.gathering import GATHER_S, End, end_of
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import Refuse, Start, Wait, place
from gpu_pools.placement.queues import Queue
from gpu_pools.slots.lease import SlotProgress
from tests.gpu_pools.placement.test_place import BEN, NOW, TWO_PM, cpu, decide, gpu, holder, uuid_of

MIN = 60.0
HOUR = 3600.0


def run(run_id="r", n_devices=1, *, device="cuda", kind="training", limit_s=None, waited=0.0, **changes):
    queue = Queue(device, kind)
    found = Waiting(run_id, f"run-{run_id}", queue, 5, NOW - waited, "anna@boxa", limit_s=limit_s, n_devices=n_devices)
    return replace(found, **changes)


def busy(index, left_s=None, *, since=TWO_PM, name="x", **changes):
    """Return a GPU with a training that will end in so many seconds; None: nobody knows."""
    progress = None if left_s is None else SlotProgress(3, 10, left_s, NOW)
    return gpu(index, holders=(holder(name, device=f"cuda:{index}", progress=progress, since=since),), **changes)


def started(decisions):
    return {run_id: go.uuids for run_id, go in decisions.items() if isinstance(go, Start)}


# ---- all or none


def test_a_run_starts_on_the_least_loaded_devices_when_as_many_are_free():
    devices = [gpu(0, memory_used_mib=900), gpu(1), busy(2), gpu(3)]
    assert decide([run("w", 2)], devices) == {"w": Start("w", ("GPU-1", "GPU-3"))}


def test_it_starts_on_none_where_one_is_missing():
    assert started(decide([run("w", 3)], [gpu(0), gpu(1), busy(2, 60)])) == {}


def test_a_device_decided_for_another_run_is_not_counted():
    first, wide = run("a", waited=60), run("w", 2)
    assert started(decide([wide, first], [gpu(0), gpu(1)])) == {"a": ("GPU-0",)}


def test_the_slots_that_a_run_lost_are_its_own_all_of_them():
    wide = run("w", 2, lost=("GPU-1", "GPU-2"))
    devices = [gpu(0), gpu(1), gpu(2)]
    assert started(decide([run("a", waited=60), wide], devices)) == {"w": ("GPU-1", "GPU-2"), "a": ("GPU-0",)}


@pytest.mark.parametrize(
    ("wide", "text"),
    [
        (run("w", 4), "found 2 GPUs on boxa, need 4 for n_devices 4"),
        (run("w", 2, device="cuda:1"), "found device cuda:1 for n_devices 2, need cuda or boxa/cuda"),
        (run("w", 2, device="cpu"), "found device cpu for n_devices 2, need cuda or boxa/cuda"),
    ],
)
def test_what_can_never_start_here_is_refused(wide, text):
    assert decide([wide], [gpu(0), gpu(1), cpu()]) == {"w": Refuse("w", text)}


# ---- gathering


def test_free_devices_are_kept_and_only_a_run_that_ends_in_time_starts_on_them():
    wide = run("w", 3, waited=5 * MIN)
    long, short, open_end = run("long", limit_s=HOUR), run("short", limit_s=20 * MIN), run("open")
    devices = [gpu(0), busy(1, 30 * MIN), gpu(2)]
    decisions = decide([wide, long, short, open_end], devices)
    assert started(decisions) == {"short": ("GPU-0",)}
    kept = "cuda:2 is kept for run-w of anna@boxa, which gathers 3 GPUs until about 15:30"
    assert decisions["long"] == Wait("long", kept)
    assert decisions["open"] == Wait("open", f"{kept}; with a time limit that ends before, a run may start")


def test_devices_that_are_kept_for_the_same_run_are_told_of_together():
    devices = [gpu(0), gpu(1), gpu(2), busy(3, 30 * MIN)]
    decisions = decide([run("w", 4, waited=2 * MIN), run("next", 2, waited=MIN), run("a")], devices)
    kept = "cuda:0, cuda:1 and cuda:2 are kept for run-w of anna@boxa, which gathers 4 GPUs until about 15:30"
    assert decisions["a"].reason.startswith(kept)
    assert decisions["next"].reason.startswith(f"needs 2 GPUs at once: {kept}; with a time limit that ends before")


def test_what_a_run_has_spent_of_its_limit_before_counts():
    devices = [gpu(0), busy(1, 30 * MIN)]
    again = run("again", limit_s=HOUR, spent_s=40 * MIN)
    assert started(decide([run("w", 2, waited=MIN), again], devices)) == {"again": ("GPU-0",)}


def test_the_run_that_gathers_says_what_it_has_and_what_it_waits_for():
    devices = [gpu(0), busy(1, 12 * MIN, name="rfuav"), gpu(2), gpu(3, foreign=(BEN,)), gpu(4, fault="it is lost")]
    decisions = decide([run("w", 3)], devices)
    assert decisions["w"].reason == (
        "gathers 3 GPUs: cuda:0 and cuda:2 are kept for it; "
        "cuda:1 is training rfuav of anna@boxa since 14:02, epoch 3 of 10, about 12 min more; "
        "cuda:3 is in use by process 4242 (python) of ben, which is not a run of Trainyard; "
        "cuda:4 does not answer: it is lost"
    )


def test_the_devices_of_one_run_are_told_of_together():
    wide = [gpu(n, holders=(holder("wide", device=f"cuda:{n}"),)) for n in range(3)]
    said = (
        "all GPUs are taken: cuda:0, cuda:1 and cuda:2 are training wide of anna@boxa since 14:02; cuda:3 is training x"
    )
    assert decide([run("a")], [*wide, busy(3)])["a"].reason.startswith(said)


def test_a_run_for_which_too_few_devices_will_be_free_keeps_none():
    devices = [gpu(0), busy(1, 12 * MIN), gpu(2, foreign=(BEN,))]
    decisions = decide([run("w", 3, waited=MIN), run("a")], devices)
    assert started(decisions) == {"a": ("GPU-0",)}
    assert decisions["w"].reason.startswith("needs 3 GPUs at once: cuda:0 is training run-a of anna@boxa, which starts")


def test_runs_that_are_better_than_it_are_not_held_back():
    first = run("first", waited=2 * MIN)
    assert started(decide([run("w", 2, waited=MIN), first], [gpu(0), busy(1, HOUR)])) == {"first": ("GPU-0",)}


@pytest.mark.parametrize(("device", "kind"), [("cuda", "inference"), ("cuda:0", "inference"), ("cpu", "training")])
def test_slots_of_other_kinds_and_of_the_cpu_are_not_kept(device, kind):
    decisions = decide([run("w", 2, waited=MIN), run("a", device=device, kind=kind)], [gpu(0), busy(1, HOUR), cpu()])
    assert "a" in started(decisions)


def test_a_run_that_asks_for_a_kept_device_by_its_name_is_held_back_too():
    decisions = decide([run("w", 2, waited=11 * MIN), run("a", device="cuda:0")], [gpu(0), busy(1, HOUR)])
    assert decisions["a"].reason.startswith("cuda:0 is kept for run-w of anna@boxa, which gathers 2 GPUs until about")


def test_one_run_gathers_at_a_time_and_another_may_start_in_the_gap():
    devices = [gpu(0), gpu(1), busy(2, HOUR), busy(3, HOUR)]
    first, second = run("first", 4, waited=MIN), run("second", 2)
    assert started(decide([first, second], devices)) == {}
    assert started(decide([first, replace(second, limit_s=50 * MIN)], devices)) == {"second": ("GPU-0", "GPU-1")}


def test_a_device_of_a_holder_of_unknown_end_is_kept_for_while_that_is_new():
    devices = [gpu(0), busy(1, since=NOW - HOUR)]
    decisions = decide([run("w", 2, waited=MIN), run("a")], devices)
    assert decisions["a"].reason == (
        "cuda:0 is kept for run-w of anna@boxa, which gathers 2 GPUs, nobody knows until when"
    )
    long_there = [gpu(0), busy(1, since=NOW - 2 * GATHER_S)]
    assert "a" in started(decide([run("w", 2, waited=MIN), run("a")], long_there))


def test_nobody_waits_for_ever_for_a_run_that_hangs():
    hangs = SlotProgress(3, 10, 60.0, NOW - HOUR)
    devices = [gpu(0), gpu(1, holders=(holder(device="cuda:1", progress=hangs),))]
    (held,) = devices[1].holders
    assert end_of(held, NOW).at == NOW + 2 * 59 * MIN
    assert not end_of(held, NOW).known
    assert end_of(replace(held, ends_by=NOW + 5), NOW) == End(NOW + 5, True)
    assert "a" not in started(decide([run("w", 2, waited=MIN), run("a")], devices))
    later = NOW + 3 * HOUR
    decisions = place([run("w", 2, waited=MIN), run("a")], devices, host="boxa", now=later)
    assert Start("a", ("GPU-0",)) in decisions


def test_devices_are_not_kept_for_longer_than_the_run_has_waited():
    devices = [gpu(0), busy(1, 30 * HOUR)]
    decisions = decide([run("w", 2, waited=2 * HOUR), run("a", limit_s=31 * HOUR)], devices)
    assert "a" in started(decisions)
    assert decisions["w"].reason.startswith(
        "needs 2 GPUs at once, none of which is kept for it yet, as so many are expected to be free in about 30 h only"
    )
    assert started(decide([run("w", 2, waited=31 * HOUR), run("a", limit_s=31 * HOUR)], devices)) == {}


def test_the_time_limit_of_a_holder_counts_where_it_does_not_say_how_far_it_is():
    held = gpu(1, holders=(holder(device="cuda:1", ends_by=NOW + 10 * MIN),))
    assert decide([run("w", 2, waited=MIN), run("a")], [gpu(0), held])["a"].reason.endswith(
        "until about 15:10; with a time limit that ends before, a run may start"
    )


def test_nothing_is_kept_while_the_queue_is_paused_or_a_rule_is_against_the_run():
    paused = frozenset(["cuda.training"])
    devices = [replace(device, paused=paused) for device in (gpu(0), busy(1, HOUR))]
    assert "a" in started(decide([run("w", 2, waited=MIN), run("a", device="cuda:0")], devices))

    class Nobody:
        everywhere = True

        def against(self, run, device, starting):
            return "the quota is spent" if run.run_id == "w" else None

    decisions = place(
        [run("w", 2, waited=MIN), run("a")], [gpu(0), busy(1, HOUR)], host="boxa", now=NOW, rules=[Nobody()]
    )
    assert decisions == [Wait("w", "the quota is spent"), Start("a", ("GPU-0",))]


def test_a_device_that_a_rule_keeps_from_the_run_is_not_waited_for():
    class Booked:
        everywhere = False

        def against(self, run, device, starting):
            return f"{device.tag} is booked by ben" if device.tag == "cuda:1" else None

    devices = [gpu(0), busy(1, MIN), busy(2, HOUR)]
    decisions = place([run("w", 2)], devices, host="boxa", now=NOW, rules=[Booked()])
    assert decisions[0].reason.startswith("gathers 2 GPUs: cuda:0 is kept for it; cuda:1 is training x")
    (decision,) = place([run("w", 2)], devices[:2], host="boxa", now=NOW, rules=[Booked()])
    assert decision.reason.startswith("needs 2 GPUs at once: cuda:0 is free; ")


# ---- any yard

ENDS = st.one_of(st.none(), st.floats(0, 20 * HOUR))


@st.composite
def yards(draw):
    n_gpus = draw(st.integers(1, 5))
    devices = [
        draw(st.sampled_from([gpu(n), gpu(n, training=2), gpu(n, training=0), gpu(n, foreign=(BEN,)), None]))
        or busy(n, draw(ENDS))
        for n in range(n_gpus)
    ]
    asked = st.tuples(
        st.integers(1, 4), st.sampled_from(["cuda", "cuda", "cuda:0"]), ENDS, st.floats(0, 2 * HOUR), st.booleans()
    )
    waiting = [
        run(str(i), n if device == "cuda" else 1, device=device, limit_s=limit, waited=waited, kind=kind)
        for i, (n, device, limit, waited, trains) in enumerate(draw(st.lists(asked, max_size=8)))
        for kind in [("training" if trains else "inference")]
    ]
    return waiting, devices


@settings(deadline=None, max_examples=200)
@given(yards())
def test_a_device_is_given_to_no_more_runs_than_its_limit_and_each_run_has_all_it_needs(yard):
    waiting, devices = yard
    decisions = decide(waiting, devices)
    assert sorted(decisions) == sorted(one.run_id for one in waiting)
    given_to = started(decisions)
    for one in waiting:
        uuids = given_to.get(one.run_id)
        assert uuids is None or len(set(uuids)) == len(uuids) == one.n_devices
    for device in devices:
        for kind, limit in device.limits.items():
            held = sum(holder.kind == kind for holder in device.holders)
            new = sum(device.uuid in given_to.get(one.run_id, ()) for one in waiting if one.queue.kind == kind)
            assert new <= max(0, limit - held)
            assert not new or not device.foreign


@settings(deadline=None, max_examples=200)
@given(yards())
def test_without_runs_that_need_several_nobody_is_held_back(yard):
    waiting, devices = [replace(one, n_devices=1) for one in yard[0]], yard[1]
    assert not any("gathers" in d.reason for d in decide(waiting, devices).values() if not isinstance(d, Start))


# ---- the second day


class Yard:
    """A host with its trainings, an event at a time; `told`: how a run that runs is known to end."""

    def __init__(self, n_gpus, told):
        self.n_gpus, self.told, self.now = n_gpus, told, NOW
        self.waiting, self.running, self.began, self.lasts = [], {}, {}, {}

    def submit(self, run_id, n_devices, lasts_s):
        limit_s = lasts_s if self.told == "limit" else None
        asked = run(run_id, n_devices, limit_s=limit_s, since=self.now)
        self.waiting.append(asked)
        self.lasts[run_id] = lasts_s

    def devices(self):
        return [gpu(n, holders=self._holders(n)) for n in range(self.n_gpus)]

    def _holders(self, n):
        for run_id, (uuids, end) in self.running.items():
            if uuid_of(f"cuda:{n}") in uuids:
                far = SlotProgress(1, 9, end - self.now, self.now) if self.told == "progress" else None
                until = end if self.told == "limit" else None
                since = self.began[run_id]
                return (holder(run_id, device=f"cuda:{n}", progress=far, since=since, ends_by=until),)
        return ()

    def turn(self):
        self.running = {one: (uuids, end) for one, (uuids, end) in self.running.items() if end > self.now}
        decisions = {go.run_id: go for go in place(self.waiting, self.devices(), host="boxa", now=self.now)}
        for run_id, uuids in started(decisions).items():
            self.running[run_id] = (uuids, self.now + self.lasts[run_id])
            self.began[run_id] = self.now
        self.waiting = [one for one in self.waiting if one.run_id not in self.began]


def simulate(yard, jobs, hours):
    """Let jobs (seconds, id, n_devices, lasts_s) come; look at every coming, and every five minutes."""
    events = [(NOW + at, 0, job) for at, *job in jobs] + [(NOW + 5 * MIN * n, 1, None) for n in range(int(12 * hours))]
    heapq.heapify(events)
    while events:
        yard.now, _, job = heapq.heappop(events)
        if job is not None:
            yard.submit(*job)
        yard.turn()


def stream(lasts_s, every_s, hours):
    return [(every_s * n, f"s{n}", 1, lasts_s) for n in range(int(hours * HOUR / every_s))]


@pytest.mark.parametrize(("told", "longest"), [("limit", 1), ("progress", 1), ("nothing", 3)])
@pytest.mark.parametrize("lasts_s", [20 * MIN, 3 * HOUR])
def test_in_a_steady_stream_of_single_runs_a_wide_one_starts_within_the_longest_end_known(told, longest, lasts_s):
    yard = Yard(4, told)
    singles = stream(lasts_s, lasts_s / 5, 14)  # more than four GPUs can do
    simulate(yard, [*singles, (4 * HOUR, "w", 4, HOUR)], 14)
    waited = yard.began["w"] - (NOW + 4 * HOUR)
    # Those that were there before it go first, as everywhere, and then the devices are gathered.
    before = sum(yard.began[f"s{n}"] >= NOW + 4 * HOUR for n in range(len(singles)) if singles[n][0] <= 4 * HOUR)
    assert waited <= (before / 4 + longest) * lasts_s + 10 * MIN


def test_runs_that_take_longer_than_devices_are_kept_for_do_not_keep_a_wide_one_out():
    yard = Yard(2, "progress")
    lasts = 3 * GATHER_S
    simulate(yard, [*stream(lasts, lasts / 2, 80), (1 * HOUR, "w", 2, HOUR)], 80)
    assert yard.began["w"] - NOW - HOUR <= 2 * lasts


def test_two_wide_runs_among_single_ones_both_start():
    yard = Yard(4, "progress")
    wide = [(HOUR, "w1", 4, HOUR), (HOUR + 60, "w2", 3, HOUR)]
    simulate(yard, [*stream(30 * MIN, 10 * MIN, 12), *wide], 12)
    assert {"w1", "w2"} <= yard.began.keys()
    assert yard.began["w1"] < yard.began["w2"]


def test_the_gap_is_filled_by_what_ends_in_time():
    yard = Yard(2, "limit")
    jobs = [(0, "long", 1, 2 * HOUR), (60, "w", 2, HOUR), *[(120 + n, f"s{n}", 1, 30 * MIN) for n in range(6)]]
    simulate(yard, jobs, 6)
    assert yard.began["w"] == NOW + 2 * HOUR
    assert sum(yard.began[f"s{n}"] < yard.began["w"] for n in range(6)) == 3
