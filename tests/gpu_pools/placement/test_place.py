"""Who starts and why the others wait; the rules hold for any yard, the sentences word by word."""

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pools.names import FROM_PAGE, FROM_SCHEDULE
from gpu_pools.placement.disk import Disk
from gpu_pools.placement.order import AGING_S, Waiting, rank
from gpu_pools.placement.place import DeviceState, Refuse, Start, Wait, place
from gpu_pools.placement.probe import GpuProcess
from gpu_pools.placement.queues import Queue
from gpu_pools.slots.lease import Holder, SlotProgress

NOW = time.mktime((2026, 3, 4, 15, 0, 0, 0, 0, -1))
TWO_PM = time.mktime((2026, 3, 4, 14, 2, 0, 0, 0, -1))
BEN = GpuProcess(4242, "ben", "python", 900)


def holder(name="rfuav-resnet18", kind="training", device="cuda:0", number=0, progress=None, **changes):
    found = Holder(name, name, "anna@boxa", device, uuid_of(device), kind, number, 1, TWO_PM, progress)
    return replace(found, **changes)


def uuid_of(tag):
    return "cpu" if tag == "cpu" else f"GPU-{tag[5:]}"


def gpu(index=0, *, training=1, inference=3, **changes):
    tag = f"cuda:{index}"
    limits = {"training": training, "inference": inference}
    return replace(DeviceState(tag, uuid_of(tag), "NVIDIA X", limits, (), 0, 0, (), frozenset()), **changes)


def cpu(**changes):
    limits = {"training": 2, "inference": 4, "preparation": 2, "pipeline": 16}
    return replace(DeviceState("cpu", "cpu", "CPU", limits, (), 0, None, (), frozenset()), **changes)


def run(run_id="r", device="cuda:0", kind="training", *, priority=5, waited=0.0, host=None):
    return Waiting(run_id, f"run-{run_id}", Queue(device, kind, host), priority, NOW - waited, "anna@boxa")


def decide(waiting, devices):
    return {decision.run_id: decision for decision in place(waiting, devices, host="boxa", now=NOW)}


def reason(waiting, devices):
    (decision,) = place([waiting], devices, host="boxa", now=NOW)
    assert isinstance(decision, Wait)
    return decision.reason


# ---- any yard

KINDS_OF = {"cuda": ["training", "inference"], "cpu": ["training", "inference", "preparation", "pipeline"]}


@st.composite
def device_states(draw, tag, paused):
    kinds = KINDS_OF[tag.partition(":")[0]]
    counts = st.lists(st.integers(0, 3), min_size=len(kinds), max_size=len(kinds))
    limits, held = dict(zip(kinds, draw(counts), strict=True)), dict(zip(kinds, draw(counts), strict=True))
    memory_mib, busy = draw(st.tuples(st.integers(0, 3), st.sampled_from([(), (), (), (BEN,)])))
    who = [holder(f"{tag}-{kind}-{n}", kind, tag, n) for kind in kinds for n in range(held[kind])]
    return DeviceState(tag, uuid_of(tag), tag, limits, tuple(who), memory_mib, None, busy * (tag != "cpu"), paused)


@st.composite
def yards(draw):
    """Draw devices and waiting runs; some devices do not exist, some queues are paused, some hosts are others."""
    tags = [*(f"cuda:{n}" for n in range(draw(st.integers(0, 3)))), "cpu"]
    asked = [*tags, "cuda", "cuda", "cuda:7"]
    queues = [Queue(tag, kind) for tag in asked for kind in KINDS_OF[tag.partition(":")[0]]]
    paused = draw(st.frozensets(st.sampled_from(queues).map(lambda queue: queue.name), max_size=2))
    devices = [draw(device_states(tag, paused)) for tag in tags]
    anywhere = [*queues, *queues, *(replace(queue, host=host) for queue in queues for host in ("boxa", "boxb"))]
    drawn = st.tuples(st.sampled_from(anywhere), st.integers(1, 10), st.integers(-1, 10))
    waiting = [
        Waiting(str(n), f"run-{n}", queue, priority, NOW - 450 * waited, "anna@boxa")
        for n, (queue, priority, waited) in enumerate(draw(st.lists(drawn, max_size=12)))
    ]
    return waiting, devices


def starts(decisions):
    return {d.run_id: d.uuids[0] for d in decisions.values() if isinstance(d, Start)}


@settings(deadline=None, max_examples=100)
@given(yards())
def test_every_waiting_run_is_in_exactly_one_decision(yard):
    waiting, devices = yard
    decisions = place(waiting, devices, host="boxa", now=NOW)
    assert sorted(decision.run_id for decision in decisions) == sorted(run.run_id for run in waiting)


@settings(deadline=None, max_examples=100)
@given(yards())
def test_no_device_gets_more_runs_of_a_kind_than_its_limit_leaves(yard):
    waiting, devices = yard
    kinds = {run.run_id: run.queue.kind for run in waiting}
    started = Counter((uuid, kinds[run_id]) for run_id, uuid in starts(decide(waiting, devices)).items())
    for device in devices:
        held = Counter(holder.kind for holder in device.holders)
        for kind, limit in device.limits.items():
            assert started[device.uuid, kind] <= max(0, limit - held[kind])


@settings(deadline=None, max_examples=100)
@given(yards())
def test_a_run_starts_only_on_a_device_it_asked_for_that_is_open(yard):
    waiting, devices = yard
    states = {device.uuid: device for device in devices}
    asked = {run.run_id: run.queue for run in waiting}
    for run_id, uuid in starts(decide(waiting, devices)).items():
        queue, device = asked[run_id], states[uuid]
        assert device.tag == queue.device or (queue.device == "cuda" and device.tag != "cpu")
        assert not device.foreign
        assert not {queue.name, Queue(device.tag, queue.kind).name} & device.paused
        assert queue.host in (None, "boxa")


def room_left(device, kind, started, kinds):
    taken = sum(h.kind == kind for h in device.holders)
    taken += sum(uuid == device.uuid and kinds[run_id] == kind for run_id, uuid in started.items())
    return device.limits[kind] - taken


@settings(deadline=None, max_examples=100)
@given(yards())
def test_no_run_waits_where_there_is_room_and_none_is_passed_over_by_a_worse_one(yard):
    waiting, devices = yard
    decisions = decide(waiting, devices)
    started = starts(decisions)
    kinds = {run.run_id: run.queue.kind for run in waiting}
    by_id = {run.run_id: run for run in waiting}
    for kept in waiting:
        queue = kept.queue
        if isinstance(decisions[kept.run_id], Start) or queue.host == "boxb" or queue.name in devices[0].paused:
            continue
        for device in devices:
            wanted = device.tag == queue.device or (queue.device == "cuda" and device.tag != "cpu")
            if wanted and not device.foreign and Queue(device.tag, queue.kind).name not in device.paused:
                assert room_left(device, queue.kind, started, kinds) <= 0
                rivals = [i for i, uuid in started.items() if uuid == device.uuid and kinds[i] == queue.kind]
                assert all(rank(by_id[rival], NOW) < rank(kept, NOW) for rival in rivals)


@settings(deadline=None, max_examples=100)
@given(yards(), st.randoms(use_true_random=False))
def test_the_order_in_which_runs_and_devices_are_listed_does_not_matter(yard, random):
    waiting, devices = yard
    before = decide(waiting, devices)
    shuffled = random.sample(waiting, len(waiting)), random.sample(devices, len(devices))
    assert starts(decide(*shuffled)) == starts(before)


@settings(deadline=None, max_examples=100)
@given(yards())
def test_every_sentence_is_one_line_and_only_a_missing_device_is_refused(yard):
    waiting, devices = yard
    tags = {device.tag for device in devices}
    for run_id, decision in decide(waiting, devices).items():
        queue = next(run.queue for run in waiting if run.run_id == run_id)
        missing = queue.device not in tags and (queue.device != "cuda" or tags == {"cpu"})
        assert isinstance(decision, Refuse) == (missing and queue.host != "boxb")
        if not isinstance(decision, Start):
            assert decision.reason
            assert "\n" not in decision.reason


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.floats(0, 1e6), st.booleans())
def test_a_run_goes_before_every_one_that_came_long_enough_after_it(worse, better, later, pinned):
    worse, better = max(worse, better), min(worse, better)
    old = run("old", "cuda", priority=worse, waited=later + (worse - better + 1) * AGING_S)
    new = run("new", "cuda:0" if pinned else "cuda", priority=better, waited=later)
    assert rank(old, NOW) < rank(new, NOW)


def test_a_run_of_the_last_priority_starts_though_a_new_first_one_comes_every_minute():
    old = Waiting("old", "old", Queue("cuda:0", "training"), 10, NOW, "anna@boxa")
    for minute in range(1, 200):
        now = NOW + 60 * minute
        new = Waiting(f"new-{minute}", "new", Queue("cuda:0", "training"), 1, now, "ben@boxa")
        if Start("old", ("GPU-0",)) in place([old, new], [gpu()], host="boxa", now=now):
            break
    assert minute == 9 * AGING_S // 60  # then both count alike, and the old one has waited longer


# ---- who is first


# ---- deaths


@st.composite
def deaths(draw):
    """Draw a yard in which some runs have just died: they wait again, each with the device it had."""
    waiting, devices = draw(yards())
    dead, left = [], []
    for device in devices:
        gone = draw(st.sets(st.sampled_from(device.holders))) if device.holders else set()
        left.append(replace(device, holders=tuple(run for run in device.holders if run not in gone)))
        for run in sorted(gone, key=lambda run: run.run_id):
            tag = draw(st.sampled_from([device.tag, *(["cuda"] if device.tag != "cpu" else [])]))
            priority, waited = draw(st.integers(1, 10)), draw(st.integers(0, 10))
            asks = Waiting(run.run_id, run.run_name, Queue(tag, run.kind), priority, NOW - waited, "ben@boxa")
            dead.append(replace(asks, lost=(device.uuid,)))
    return waiting, dead, left


@settings(deadline=None, max_examples=200)
@given(deaths())
def test_the_slot_that_a_dead_run_had_is_given_to_nobody_else(yard):
    waiting, dead, devices = yard
    order = place([*waiting, *dead], devices, host="boxa", now=NOW)
    started = starts({decision.run_id: decision for decision in order})
    kinds = {run.run_id: run.queue.kind for run in waiting}
    for device in devices:
        for kind, limit in device.limits.items():
            open_to = not device.foreign and Queue(device.tag, kind).name not in device.paused
            room = max(0, limit - sum(h.kind == kind for h in device.holders)) * open_to
            ask = [run for run in dead if run.lost == (device.uuid,) and run.queue.kind == kind]
            ask = [run for run in ask if run.queue.name not in device.paused]
            back = [run for run in ask if started.get(run.run_id) == device.uuid]
            assert len(back) == min(room, len(ask))
            others = [i for i, uuid in started.items() if uuid == device.uuid and kinds.get(i) == kind]
            assert len(others) <= room - len(back)
    first = [decision.run_id for decision in order[: len(dead)]]
    lost = {run.run_id: run.lost for run in dead}
    assert all(run_id in first for run_id, uuid in started.items() if lost.get(run_id) == (uuid,))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["come", "come", "die", "end"]), max_size=40), st.randoms(use_true_random=False))
def test_over_any_history_of_deaths_a_run_keeps_its_gpu_until_it_ends(events, random):
    waiting, on = [], {}
    for n, event in enumerate(events):
        dead = {}
        if event == "come":
            device = random.choice(["cuda:0", "cuda:1", "cuda"])
            waiting.append(run(f"{n:02}", device, priority=random.randint(1, 10), waited=-n))
        elif event == "end" and on:
            del on[random.choice(list(on))]
        elif on:
            dead = {one: on.pop(one) for one in random.sample(list(on), random.randint(1, len(on)))}
        waiting += [replace(one, lost=(uuid,)) for one, uuid in dead.items()]
        held = {
            tag: [holder(one.run_id) for one, uuid in on.items() if uuid == uuid_of(tag)]
            for tag in ("cuda:0", "cuda:1")
        }
        decisions = decide(waiting, [gpu(int(tag[-1]), holders=tuple(who)) for tag, who in held.items()])
        for one in waiting:
            if isinstance(decisions[one.run_id], Start):
                on[replace(one, lost=())] = decisions[one.run_id].uuids[0]
        waiting = [replace(one, lost=()) for one in waiting if isinstance(decisions[one.run_id], Wait)]
        assert all(on.get(one) == uuid for one, uuid in dead.items())
        assert max(Counter(on.values()).values(), default=0) <= 1


def first_of(*waiting):
    (first,) = starts(decide(waiting, [gpu()]))
    return first


def test_the_lower_number_is_first():
    assert first_of(run("a", priority=5), run("b", priority=2), run("c", priority=9)) == "b"


def test_at_the_same_level_a_run_that_needs_this_gpu_is_before_one_that_takes_any():
    assert first_of(run("any", "cuda", waited=500), run("pinned", waited=10)) == "pinned"


def test_then_the_one_that_has_waited_longest_is_first():
    assert first_of(run("a", waited=10), run("b", waited=20)) == "b"


def test_a_due_time_to_come_is_no_waiting():
    assert rank(run("a", waited=-5000), NOW)[0] == 5


# ---- where


@pytest.mark.parametrize(
    "busier",
    [
        {"holders": (holder(kind="inference"),)},
        {"memory_used_mib": 500, "utilisation_percent": 0},
        {"memory_used_mib": 400, "utilisation_percent": 50},
    ],
)
def test_any_gpu_is_the_one_with_fewest_runs_then_least_memory_then_utilisation(busier):
    calm = gpu(1, memory_used_mib=400, utilisation_percent=10)
    assert decide([run("r", "cuda")], [gpu(0, **busier), calm]) == {"r": Start("r", ("GPU-1",))}


def test_of_equal_gpus_the_lower_number_is_taken():
    devices = [gpu(10), gpu(2)]
    assert starts(decide([run("r", "cuda")], devices)) == {"r": "GPU-2"}


def test_runs_that_start_together_spread_over_the_gpus():
    waiting = [run(str(n), "cuda", "inference") for n in range(4)]
    assert Counter(starts(decide(waiting, [gpu(0), gpu(1)])).values()) == {"GPU-0": 2, "GPU-1": 2}


def test_a_gpu_that_is_full_of_trainings_still_takes_inferences():
    assert isinstance(decide([run("r", kind="inference")], [gpu(holders=(holder(),))])["r"], Start)


def test_any_gpu_is_never_the_cpu():
    assert "all" not in reason(run("r", "cuda"), [cpu(), gpu(holders=(holder(),))])


def test_this_host_s_own_name_is_no_other_host():
    assert isinstance(decide([run("r", host="boxa")], [gpu()])["r"], Start)


# ---- the sentences


def test_a_run_that_waits_knows_who_is_there_how_far_and_how_many_are_before_it():
    held = holder(progress=SlotProgress(3, 30, 1500.0, NOW))
    decisions = decide([run("a", waited=30), run("b", "cuda", waited=20), run("c", waited=10)], [gpu(holders=(held,))])
    base = "cuda:0 is training rfuav-resnet18 of anna@boxa since 14:02, epoch 3 of 30, about 25 min more"
    assert decisions["a"] == Wait("a", base)
    assert decisions["c"] == Wait("c", f"{base}; 1 run before this one")
    assert decisions["b"] == Wait("b", f"{base}; 2 runs before this one")


def test_with_several_gpus_it_knows_of_each():
    devices = [cpu(), gpu(0, holders=(holder(),)), gpu(1, holders=(holder("b", device="cuda:1"),))]
    assert reason(run("r", "cuda"), devices) == (
        "all GPUs are taken: cuda:0 is training rfuav-resnet18 of anna@boxa since 14:02; "
        "cuda:1 is training b of anna@boxa since 14:02"
    )


@pytest.mark.parametrize(
    ("kind", "verb"),
    [("training", "training"), ("inference", "running"), ("preparation", "preparing"), ("pipeline", "running")],
)
def test_what_the_holder_does_is_said(kind, verb):
    device = cpu(limits={kind: 1}, holders=(holder("x", kind, "cpu"),))
    assert reason(run("r", "cpu", kind), [device]) == f"cpu is {verb} x of anna@boxa since 14:02"


def test_where_more_than_one_may_run_the_limit_is_said_with_all_of_them():
    held = (holder("a", "preparation", "cpu"), holder("b", "preparation", "cpu", owner="ben@boxa"))
    assert reason(run("r", "cpu", "preparation"), [cpu(holders=held)]) == (
        "the limit of cpu preparations is 2: a of anna@boxa since 14:02 and b of ben@boxa since 14:02"
    )


def test_of_many_holders_three_are_named():
    held = tuple(holder(f"p{n}", "pipeline", "cpu", n) for n in range(16))
    assert reason(run("r", "cpu", "pipeline"), [cpu(holders=held)]).endswith("p2 of anna@boxa since 14:02 and 13 more")


def test_a_limit_lowered_below_the_holders_is_said():
    held = (holder("a"), holder("b", number=1))
    assert reason(run(), [gpu(holders=held)]) == (
        "the limit of cuda:0 trainings is 1: a of anna@boxa since 14:02 and b of anna@boxa since 14:02"
    )
    assert reason(run(), [gpu(training=0, holders=held)]) == "the limit of cuda:0 trainings is 0"


def test_a_run_that_starts_in_the_same_moment_is_named():
    decisions = decide([run("a", waited=5), run("b")], [gpu()])
    assert decisions["b"] == Wait("b", "cuda:0 is training run-a of anna@boxa, which starts now")


def test_a_foreign_process_keeps_a_gpu_from_being_used_and_is_named():
    expected = "cuda:1 is in use by process 4242 (python) of ben, which is not a run of Trainyard"
    assert reason(run("r", "cuda:1"), [gpu(0), gpu(1, foreign=(BEN,))]) == expected
    assert starts(decide([run("r", "cuda")], [gpu(0, memory_used_mib=9000), gpu(1, foreign=(BEN,))])) == {"r": "GPU-0"}


def test_several_foreign_processes_are_counted_and_a_hidden_one_has_a_number_only():
    hidden = GpuProcess(7, "?", "?", None)
    assert reason(run(), [gpu(foreign=(hidden, BEN))]) == (
        "cuda:0 is in use by process 7 and 1 other, which are not runs of Trainyard"
    )


def test_a_paused_queue_starts_nothing():
    devices = [gpu(paused=frozenset({"cuda.training"})), cpu(paused=frozenset({"cuda.training"}))]
    assert reason(run("r", "cuda"), devices) == "queue cuda.training is paused"
    assert isinstance(decide([run("r")], devices)["r"], Start)


@pytest.mark.parametrize("paused", ["cuda:0.training", "boxa.cuda:0.training"])
def test_a_gpu_whose_own_queue_is_paused_is_not_chosen_either(paused):
    devices = [gpu(0, paused=frozenset({paused})), gpu(1, holders=(holder("b", "inference", "cuda:1"),))]
    assert starts(decide([run("r", "cuda")], devices)) == {"r": "GPU-1"}
    assert reason(run("r"), devices) == f"queue {paused} is paused"


def test_a_run_that_is_held_back_is_not_before_another_one():
    devices = [gpu(holders=(holder(),), paused=frozenset({"cuda.training"}))]
    decisions = decide([run("a", "cuda", priority=1), run("b")], devices)
    assert "before" not in decisions["b"].reason


def test_a_better_run_that_takes_any_gpu_is_before_one_that_needs_this():
    decisions = decide([run("a", "cuda", priority=1), run("b")], [gpu(holders=(holder(),))])
    assert decisions["b"].reason.endswith("; 1 run before this one")


def test_runs_that_need_another_gpu_are_not_before_one_that_takes_any():
    devices = [gpu(0, holders=(holder(),)), gpu(1, holders=(holder(device="cuda:1"),))]
    pinned = [run(f"p{n}", "cuda:1", priority=1) for n in range(22)]
    decisions = decide([*pinned, run("free", "cuda", priority=1), run("last", "cuda")], devices)
    assert "before this one" not in decisions["free"].reason
    assert decisions["last"].reason.endswith("; 1 run before this one")
    assert decisions["p9"].reason.endswith("; 21 runs before this one")
    also = decide([*pinned, run("q", "cuda:0", priority=1), run("last", "cuda")], devices)
    assert also["last"].reason.endswith("; 1 run before this one")
    assert decide([*pinned, run("last", "cuda")], [devices[1]])["last"].reason.endswith("; 22 runs before this one")


def test_who_asked_in_the_page_or_by_a_schedule_is_nobody_s_name():
    asked = holder(owner=FROM_PAGE)
    assert reason(run("r"), [gpu(0, holders=(asked,))]) == (
        "cuda:0 is training rfuav-resnet18, asked in Prefect's page, since 14:02"
    )
    first = replace(run("s"), owner=FROM_SCHEDULE)
    said = decide([first, run("t")], [gpu(0)])["t"].reason
    assert said == "cuda:0 is training run-s, made by a schedule, which starts now"


def test_runs_of_another_kind_are_not_before_this_one():
    device = gpu(inference=1, holders=(holder(), holder("x", "inference")))
    decisions = decide([run("a", priority=1), run("b", kind="inference")], [device, cpu()])
    assert decisions["b"] == Wait("b", "cuda:0 is running x of anna@boxa since 14:02")


def test_runs_for_the_cpu_and_for_gpus_are_not_before_each_other():
    devices = [cpu(limits={"training": 1}, holders=(holder("c", device="cpu"),)), gpu(holders=(holder("g"),))]
    waiting = [run("a", "cuda"), run("b", "cpu", waited=1)]
    for ranked in (waiting, [replace(waiting[0], priority=1), waiting[1]]):
        assert not [d.reason for d in decide(ranked, devices).values() if "before" in d.reason]


def test_an_unknown_device_is_refused_with_those_that_exist():
    devices = [cpu(), gpu(0), gpu(1, name="NVIDIA Y")]
    assert decide([run("r", "cuda:7")], devices)["r"] == Refuse(
        "r", "found no device 'cuda:7' on boxa; have: cpu, cuda:0 (NVIDIA X), cuda:1 (NVIDIA Y)"
    )
    assert decide([run("r", "cuda")], [cpu()])["r"] == Refuse("r", "found no GPU for device 'cuda' on boxa; have: cpu")


def test_a_run_for_another_host_waits_whatever_is_free_and_names_it():
    assert reason(run("r", "cuda:0", host="boxb"), [gpu()]) == (
        "boxb/cuda:0 is a device of host boxb, which has to start it; this is boxa"
    )


def test_a_record_that_cannot_be_read_is_no_reason_to_fail():
    unknown = Holder("?", "?", "?", "?", "GPU-0", "training", 0, 0, 0.0, None)
    assert reason(run(), [gpu(holders=(unknown,))]) == "cuda:0 is training a run whose record cannot be read"


def test_a_run_since_another_day_says_which():
    held = holder(since=TWO_PM - 86400)
    assert "since 2026-03-03 14:02" in reason(run(), [gpu(holders=(held,))])


@pytest.mark.parametrize(
    ("remaining_s", "said"),
    [
        (59, ", less than a minute more"),
        (0, ", less than a minute more"),
        (61, ", about 1 min more"),
        (600, ", about 10 min more"),
        (1130, ", about 19 min more"),
        (1500, ", about 25 min more"),
        (1600, ", about 25 min more"),
        (9999, ", about 165 min more"),
        (None, ""),
    ],
)
def test_the_time_left_is_in_minutes_and_coarser_the_longer_it_is(remaining_s, said):
    held = holder(progress=SlotProgress(1, 9, remaining_s, NOW))
    assert reason(run(), [gpu(holders=(held,))]).endswith(f"since 14:02, epoch 1 of 9{said}")


def test_the_time_left_shrinks_while_an_epoch_runs_and_is_never_less_than_nothing():
    for updated, said in ((NOW - 300, "about 5 min more"), (NOW - 900, "less than a minute more")):
        held = holder(progress=SlotProgress(1, 9, 600.0, updated))
        assert reason(run(), [gpu(holders=(held,))]).endswith(said)


def test_a_sentence_does_not_change_while_nothing_does():
    device = gpu(holders=(holder(progress=SlotProgress(3, 30, None, NOW)),))
    (first,) = place([run()], [device], host="boxa", now=NOW)
    assert place([run()], [device], host="boxa", now=NOW + 300) == [first]


def test_a_thousand_waiting_runs_are_decided_on_in_a_moment():
    devices = [*(gpu(n, holders=(holder(device=f"cuda:{n}"),)) for n in range(8)), cpu()]
    waiting = [run(str(n), "cuda" if n % 2 else f"cuda:{n % 8}", waited=n) for n in range(1000)]
    began = time.process_time()
    decide(waiting, devices)
    assert time.process_time() - began < 1.0  # 0.02 s on an idle core


# ---- the disk

FULL = Disk("/yard", 3 * 10**9, 10 * 10**9)


def test_on_a_full_disk_nothing_starts_but_housekeeping_and_the_rest_says_so_with_both_numbers():
    limits = {"training": 2, "pipeline": 16, "preparation": 2, "housekeeping": 1}
    waiting = [
        *(run(kind, "cpu", kind) for kind in limits),
        replace(run("lost"), lost=(uuid_of("cuda:0"),)),
        run("cuda", "cuda", "inference"),
    ]
    decisions = place(waiting, [gpu(), cpu(limits=limits)], host="boxa", now=NOW, disk=FULL)
    assert [decision.run_id for decision in decisions if isinstance(decision, Start)] == ["housekeeping"]
    reasons = {decision.reason for decision in decisions if isinstance(decision, Wait)}
    assert len(decisions) == 6
    assert reasons == {FULL.sentence()}
    assert "3.0 GB free at /yard, 10.0 GB needed" in FULL.sentence()


def test_on_a_disk_with_room_all_is_as_without_it():
    waiting = [run("a"), run("b")]
    free = replace(FULL, free=FULL.least)
    assert place(waiting, [gpu()], host="boxa", now=NOW, disk=free) == place(waiting, [gpu()], host="boxa", now=NOW)


def test_a_device_that_nobody_has_is_refused_on_a_full_disk_too():
    (decision,) = place([run(device="cuda:5")], [gpu()], host="boxa", now=NOW, disk=FULL)
    assert isinstance(decision, Refuse)


# ---- rules


class NotOn:
    """Keeps a run from a device."""

    everywhere = False

    def __init__(self, run_id, tag, text):
        self.run_id, self.tag, self.text = run_id, tag, text

    def against(self, run, device, starting):
        return self.text if run.run_id == self.run_id and device.tag == self.tag else None


class OneAtOnce:
    """Lets an owner start one run."""

    everywhere = True

    def against(self, run, device, starting):
        own = [other for others in starting.values() for other in others if other.owner == run.owner]
        return f"{own[0].run_name} has the one slot of {run.owner}" if own else None


def placed(waiting, devices, *rules):
    return place(waiting, devices, host="boxa", now=NOW, rules=rules)


def test_a_rule_keeps_a_run_from_a_free_slot_with_its_sentence():
    rule = NotOn("r", "cuda:0", "cuda:0 is booked from 16:00")
    assert placed([run()], [gpu()], rule) == [Wait("r", "cuda:0 is booked from 16:00")]


def test_a_rule_against_one_device_leaves_the_others():
    rule = NotOn("r", "cuda:0", "cuda:0 is booked from 16:00")
    assert placed([run(device="cuda")], [gpu(0), gpu(1)], rule) == [Start("r", ("GPU-1",))]


def test_the_slot_that_a_rule_keeps_a_run_from_goes_to_the_next():
    first, second = run("first", waited=60), run("second")
    rule = NotOn("first", "cuda:0", "too long for the gap")
    assert placed([first, second], [gpu()], rule) == [
        Wait("first", "cuda:0 is training run-second of anna@boxa, which starts now"),
        Start("second", ("GPU-0",)),
    ]


def test_a_rule_knows_what_starts_in_the_same_moment():
    decisions = placed([run("a", waited=9), run("b", device="cuda:1")], [gpu(0), gpu(1)], OneAtOnce())
    assert decisions == [Start("a", ("GPU-0",)), Wait("b", "run-a has the one slot of anna@boxa")]
