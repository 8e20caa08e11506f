"""Whose turn it is among those who wait; nobody waits for ever."""

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pools.names import FROM_PAGE
from gpu_pools.placement.order import AGING_S, PATIENCE_S, Waiting, hours_text, rank
from gpu_pools.placement.place import DeviceState, Start, Wait, place
from gpu_pools.placement.queues import Queue
from gpu_pools.sharing.fair_share import decayed
from gpu_pools.slots.lease import Holder

NOW = 1_800_000_000.0
HOUR = 3600.0


def run(run_id, owner="anna@boxa", *, had_h=0.0, priority=5, waited=0.0, device="cuda", served=0.0):
    since, queue = NOW - waited, Queue(device, "training")
    return Waiting(run_id, f"run-{run_id}", queue, priority, since, owner, recent_use_s=had_h * HOUR, served=served)


def gpu(index=0, holders=()):
    uuid = f"GPU-{index}"
    return DeviceState(f"cuda:{index}", uuid, "X", {"training": 1}, tuple(holders), 0, 0, (), frozenset())


def taken(index=0):
    return gpu(index, [Holder("h", "held", "carla@boxa", f"cuda:{index}", f"GPU-{index}", "training", 0, 1, NOW, None)])


def order(*runs):
    return [one.run_id for one in sorted(runs, key=lambda one: rank(one, NOW))]


def reasons(*runs, devices=None):
    decisions = place(list(runs), devices or [taken()], host="boxa", now=NOW)
    return {one.run_id: one.reason.partition("; ")[2] for one in decisions if isinstance(one, Wait)}


def test_of_equal_priorities_whoever_had_less_lately_goes_first_however_long_the_other_waits():
    assert order(run("anna", had_h=12.4, waited=5 * HOUR), run("ben", "ben@boxa", had_h=3.1, waited=HOUR)) == [
        *("ben", "anna"),
    ]


def test_a_better_priority_goes_first_whatever_its_owner_had_until_the_other_has_waited():
    first, second = run("anna", had_h=99, priority=2), run("ben", "ben@boxa", waited=AGING_S)
    assert order(first, second) == ["anna", "ben"]
    assert order(first, replace(second, since=NOW - 3 * AGING_S)) == ["ben", "anna"]


def test_no_waiting_makes_a_run_better_than_the_first_priority_before_its_owner_s_patience_ends():
    new = run("ben", "ben@boxa", priority=1)
    assert order(run("anna", had_h=99, priority=10, waited=PATIENCE_S - 1), new) == ["ben", "anna"]
    assert order(run("anna", had_h=99, priority=10, waited=PATIENCE_S), new) == ["anna", "ben"]


def test_who_had_a_turn_in_that_queue_lately_has_patience():
    new, old = run("ben", "ben@boxa", priority=1), run("anna", had_h=99, waited=9 * PATIENCE_S)
    assert order(old, new) == ["anna", "ben"]
    assert order(replace(old, served=NOW - HOUR), new) == ["ben", "anna"]


def test_less_than_a_tenth_of_an_hour_makes_no_difference():
    assert order(run("anna", had_h=1.05, waited=60), run("ben", "ben@boxa", had_h=1.0)) == ["anna", "ben"]


def test_a_persons_own_runs_are_by_priority_and_age():
    late = run("late", had_h=7, priority=4)
    assert order(late, run("old", had_h=7, waited=2 * AGING_S), run("new", had_h=7)) == ["old", "late", "new"]


def test_a_run_that_takes_any_gpu_leaves_the_one_that_another_needs():
    devices = [gpu(0), gpu(1)]
    first, second = run("any", "ben@boxa"), run("pinned", had_h=9, device="cuda:0")
    assert place([first, second], devices, host="boxa", now=NOW) == [
        Start("any", ("GPU-1",)),
        Start("pinned", ("GPU-0",)),
    ]
    assert place([first, second], devices[:1], host="boxa", now=NOW)[0] == Start("any", ("GPU-0",))


# ---- sentences


def test_the_sentence_says_where_one_stands():
    waiting = [run("anna", had_h=12.42), run("b1", "ben@boxa", had_h=3.1), run("b2", "ben@boxb", had_h=3.1)]
    assert (
        reasons(*waiting)["anna"] == "anna, 2nd of 2 who wait, had 12 GPU hours lately, ben 3.1: 2 runs before this one"
    )
    assert reasons(*waiting)["b2"] == "1 run before this one"


def test_it_names_three_at_most_those_who_had_least_first():
    others = [run(name, f"{name}@boxa", had_h=hours) for name, hours in zip("bcdef", (4, 0, 3, 2, 40), strict=True)]
    assert reasons(run("anna", had_h=30), *others)["anna"] == (
        "anna, 5th of 6 who wait, had 30 GPU hours lately, c 0.0, e 2.0, d 3.0: 4 runs before this one"
    )


def test_a_better_priority_before_one_is_no_matter_of_shares():
    assert reasons(run("anna", had_h=12), run("ben", "ben@boxa", priority=1))["anna"] == "1 run before this one"


def test_who_said_no_name_is_told_as_that_and_the_cpu_has_hours_of_its_own():
    cpu = DeviceState("cpu", "cpu", "CPU", {"training": 0}, (), 0, None, (), frozenset())
    waiting = [run("anna", had_h=120, device="cpu"), run("page", FROM_PAGE, had_h=0.5, device="cpu")]
    assert reasons(*waiting, devices=[cpu])["anna"] == (
        "anna, 2nd of 2 who wait, had 120 CPU hours lately, runs asked in Prefect's page 0.5: 1 run before this one"
    )


@pytest.mark.parametrize(("hours", "said"), [(0, "0.0"), (3.14, "3.1"), (9.94, "9.9"), (9.96, "10"), (412.4, "412")])
def test_hours_are_as_exact_as_they_need_to_be(hours, said):
    assert hours_text(hours * HOUR) == said


# ---- nobody starves

PEOPLE = ("anna", "ben", "carla", "dora")


@st.composite
def histories(draw):
    """Draw what people had before, and who asks for what, when, for how long; some ask for ever and ever."""
    had_h = {person: draw(st.sampled_from([0.0, 1.0, 300.0])) for person in PEOPLE}
    drawn = st.tuples(
        st.sampled_from(PEOPLE), st.integers(1, 10), st.integers(0, 72), st.sampled_from(["cuda", "cuda:0", "cuda:1"])
    )
    asked = draw(st.lists(drawn, min_size=1, max_size=12))
    flood = draw(st.sampled_from(PEOPLE))
    return had_h, asked, flood, draw(st.integers(1, 12))


@settings(deadline=None, max_examples=40)
@given(histories())
def test_every_run_starts_while_others_ask_for_ever(history):
    """A person floods two GPUs with first priorities, each of some hours, and had nothing before: all others start."""
    had_h, asked, flood, hours = history
    waiting = [
        replace(run(f"{n}", f"{who}@boxa", priority=priority, device=device), since=NOW + HOUR * at)
        for n, (who, priority, at, device) in enumerate(asked)
        if who != flood
    ]
    free_at, served, spans = {"GPU-0": NOW, "GPU-1": NOW}, defaultdict(float), []
    last = len(waiting) * (PATIENCE_S + 4 * hours * HOUR) + 72 * HOUR  # each after the one before it, at the latest
    for n in range(10_000):
        now = min(free_at.values())
        if not waiting or now > NOW + last:
            break
        flooding = [
            replace(run(f"f{n}.{k}", f"{flood}@boxa", priority=1, device=f"cuda:{k}"), since=now) for k in (0, 1)
        ]
        had = defaultdict(float, {who: decayed(had_h[who] * HOUR, now - NOW) for who in PEOPLE} | {flood: 0.0})
        for who, began, ended in spans:
            had[who] += decayed(min(now, ended) - began, max(0.0, now - ended))
        known = [
            replace(one, recent_use_s=had[person(one)], served=served[person(one), one.queue.name])
            for one in (*(one for one in waiting if one.since <= now), *flooding)
        ]
        devices = [gpu(k) if free_at[f"GPU-{k}"] <= now else taken(k) for k in (0, 1)]
        decisions = place(known, devices, host="boxa", now=now)
        go = next(one for one in decisions if isinstance(one, Start))
        started = next(one for one in known if one.run_id == go.run_id)
        served[person(started), started.queue.name] = now
        spans.append((person(started), now, now + hours * HOUR))
        free_at[go.uuids[0]] = now + hours * HOUR
        waiting = [one for one in waiting if one.run_id != go.run_id]
    assert waiting == []


def person(one):
    return one.owner.partition("@")[0]
