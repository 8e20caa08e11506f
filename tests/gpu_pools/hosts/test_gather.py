"""Runs that need several hosts: each host keeps its devices for one run at a time, and one host starts it."""

import math
import random
from dataclasses import replace

import pytest

from gpu_pools.hosts.gather import fixed_order
from gpu_pools.hosts.offers import Offer
from gpu_pools.placement.gathering import GATHER_S
from gpu_pools.placement.order import AGING_S
from gpu_pools.placement.place import Start, Wait, place
from gpu_pools.placement.queues import Queue
from tests.gpu_pools.placement.test_gathering import HOUR, MIN, busy, run
from tests.gpu_pools.placement.test_place import NOW, gpu

READY = Offer(0, kept=True, text="cuda:0 is kept for it")


def wide(run_id="w", n_devices=1, n_hosts=2, *, offers=None, **changes):
    found = run(run_id, n_devices, waited=MIN)  # before others
    return replace(found, **{"n_hosts": n_hosts, "due": NOW, "offers": offers or {}, **changes})


def decide(waiting, devices, host="boxa"):
    return {found.run_id: found for found in place(waiting, devices, host=host, now=NOW)}


def test_free_devices_are_offered_and_kept_before_the_other_host_has_said_anything():
    decisions = decide([wide(), run("other")], [gpu(0)])
    said = "gathers 2 hosts with 1 GPU each: boxa: cuda:0 is kept for it"
    assert decisions["w"] == Wait("w", said, Offer(0, True, "cuda:0 is kept for it"))
    assert decisions["other"].reason.endswith("2 hosts with 1 GPU each, nobody knows until when")


def test_they_are_kept_until_it_is_ready_and_those_behind_are_told_for_whom():
    decisions = decide([wide(offers={"boxb": Offer(600, True, "cuda:1 ends soon")}), run("other")], [gpu(0)])
    said = "gathers 2 hosts with 1 GPU each: boxa: cuda:0 is kept for it; boxb: cuda:1 ends soon"
    assert decisions["w"] == Wait("w", said, Offer(0, True, "cuda:0 is kept for it"))
    assert decisions["other"].reason.startswith(
        "cuda:0 is kept for run-w of anna@boxa, which gathers 2 hosts with 1 GPU each until about 15:10"
    )


def test_a_run_that_ends_before_the_other_host_is_ready_fills_the_gap():
    short = run("short", limit_s=5 * MIN)
    decisions = decide([wide(offers={"boxb": Offer(600, True)}), short], [gpu(0)])
    assert isinstance(decisions["short"], Start)


def test_the_first_host_starts_it_when_all_are_ready_and_the_other_says_nothing():
    assert decide([wide(offers={"boxb": READY})], [gpu(0)]) == {"w": Start("w", ("GPU-0",), ("boxb",))}
    (waits,) = decide([wide(offers={"boxa": READY})], [gpu(0)], "boxb").values()
    assert (waits.reason, waits.offer.stands) == ("", True)


def test_no_more_devices_are_kept_than_the_run_needs():
    decisions = decide([wide(offers={"boxb": Offer(600, True, "x")}), run("other")], [gpu(0), gpu(1)])
    assert decisions["w"].offer.text == "cuda:0 is kept for it"
    assert decisions["other"] == Start("other", ("GPU-1",))


def test_all_devices_of_a_host_or_none():
    offers = {"boxb": READY}
    (waits,) = decide([wide(n_devices=2, offers=offers)], [gpu(0), busy(1, 20 * MIN)]).values()
    assert (waits.offer.ready_in_s, waits.offer.kept) == (20 * MIN, True)
    (starts,) = decide([wide(n_devices=2, offers=offers)], [gpu(0), gpu(1)]).values()
    assert starts == Start("w", ("GPU-0", "GPU-1"), ("boxb",))


@pytest.mark.parametrize("seconds", [2 * GATHER_S, math.inf])
def test_nothing_is_kept_while_the_other_host_has_nothing_before_long(seconds):
    decisions = decide([wide(offers={"boxb": Offer(seconds)}), run("other")], [gpu(0)])
    assert (decisions["w"].offer.ready_in_s, decisions["w"].offer.kept) == (0, False)
    assert isinstance(decisions["other"], Start)


def test_who_has_waited_for_long_is_gathered_for_however_late_the_other_is():
    waited = replace(wide(offers={"boxb": Offer(5 * HOUR)}), since=NOW - 6 * HOUR)
    (waits,) = decide([waited], [gpu(0)]).values()
    assert waits.offer.kept


def test_a_host_that_is_not_needed_keeps_nothing():
    offers = {"boxa": READY, "boxb": Offer(60, True)}
    decisions = decide([wide(offers=offers), run("other")], [busy(0, 300), gpu(1)], "boxc")
    assert decisions["w"].offer.kept  # ready, while boxb is not
    assert isinstance(decisions["other"], Wait)
    decisions = decide([wide(offers={**offers, "boxb": READY}), run("other")], [gpu(0)], "boxc")
    assert not decisions["w"].offer.kept
    assert isinstance(decisions["other"], Start)


def test_hosts_gather_for_one_run_at_a_time_the_same_on_all_whatever_their_clocks():
    first, second = wide("a", due=NOW - 60), wide("b", due=NOW - 30)
    for since in (NOW - HOUR, NOW):  # as each host measures it
        decisions = decide([first, replace(second, since=since, offers={"boxb": READY})], [gpu(0)])
        assert decisions["b"] == Wait(
            "b",
            "needs 2 hosts with 1 GPU each; run-a of anna@boxa, which needs 2 hosts, gathers before it",
            Offer(text="gathers for another run"),
        )
    assert fixed_order(replace(second, priority=4)) < fixed_order(first) < fixed_order(second)
    assert fixed_order(second)[0] - fixed_order(replace(second, priority=4))[0] == AGING_S


def test_a_run_whose_queue_is_paused_is_passed_over():
    paused = wide("a", due=NOW - 60, queue=Queue("cuda", "training", "boxa"))
    device = gpu(0, paused=frozenset({"boxa.cuda.training"}))
    decisions = decide([paused, wide("b", offers={"boxb": READY})], [device])
    assert decisions["b"] == Start("b", ("GPU-0",), ("boxb",))


def test_a_share_of_a_run_that_has_started_goes_before_all_and_is_kept_from_nothing():
    share = replace(run("s", queue=Queue("cuda", "training", "boxa")), share_of="w", since=NOW, priority=10)
    others = [wide("next", offers={"boxb": Offer(60, True)}, due=NOW - HOUR), run("other", waited=HOUR)]
    assert decide([*others, share], [gpu(0)])["s"] == Start("s", ("GPU-0",))


def test_two_hosts_that_free_and_lose_devices_at_random_never_block_two_runs():
    dice = random.Random(0)
    for _ in range(200):
        waiting = {name: wide(name, dice.randint(1, 2), due=NOW + dice.randint(-5, 5)) for name in "abc"}
        offers = {name: {} for name in waiting}
        for _ in range(12):
            for host in dice.sample(["boxa", "boxb"], 2):
                seen = [
                    replace(one, offers={h: o for h, o in offers[name].items() if h != host})
                    for name, one in waiting.items()
                ]
                for found in place(seen, [gpu(0), gpu(1)], host=host, now=NOW):
                    if isinstance(found, Start):
                        del waiting[found.run_id]
                    elif found.offer is not None:
                        offers[found.run_id][host] = Offer.of_label(found.offer.as_label())
        assert not waiting
