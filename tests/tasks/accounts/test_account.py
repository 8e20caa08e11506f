"""Accounts of runs are chosen, added up, and cut to a time."""

from dataclasses import replace

import pytest

from gpu_pools.sharing.usage import Use
from gpu_pools.slots.use import SlotUse
from tasks.accounts.account import Result, accounts_of, chosen, sums, total, within

USE = Use(
    run_id="r1",
    run_name="rfuav",
    owner="anna@boxa",
    flow="train_classifier",
    deployment="stage-train-classifier",
    device="cuda:0",
    host="boxa",
    kind="training",
    asked=1000.0,
    began=1600.0,
    ended=5200.0,
    state="COMPLETED",
    state_name="Completed",
    ran_s=3600.0,
    until=5200.0,
    slot=SlotUse(3600.0, 20.0, 0.8, 250.0, 9000.0),
)


def account(result=None, **changes):
    (found,) = accounts_of([replace(USE, **changes)], {"r1": result} if result else {}, "boxa")
    return found


def test_an_account_has_what_prefect_the_slot_and_mlflow_know():
    found = account(Result("accuracy/test", 0.93, "m1"))
    assert (found.device, found.waited_s, found.ran_s, found.gpu_hours) == ("cuda:0", 600.0, 3600.0, 1.0)
    assert (found.energy_wh, found.gpu_busy_share, found.peak_memory_mib) == (250.0, 0.8, 9000.0)
    assert (found.metric, found.value, found.mlflow_run, found.failed) == ("accuracy/test", 0.93, "m1", False)


def test_another_hosts_device_has_its_name_and_the_cpu_no_gpu_hours():
    assert account(host="boxb").device == "boxb/cuda:0"
    assert account(device="cpu", host="").device == "cpu"
    assert account(device="cpu").gpu_hours == 0


def test_housekeeping_is_nobodys():
    assert not accounts_of([replace(USE, kind="housekeeping")], {}, "boxa")


def test_a_run_that_was_killed_ended_when_it_was_seen_last():
    assert account(ended=None, state="CRASHED", until=3000.0).ended == 3000.0
    assert account(ended=None, state="RUNNING", until=3000.0).ended is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"owner": "anna"}, True),
        ({"owner": "anna@boxa"}, True),
        ({"owner": "ann"}, False),
        ({"flow": "train_classifier"}, True),
        ({"flow": "classification"}, False),
        ({"device": "cuda:0"}, True),
        ({"device": "cuda"}, True),
        ({"device": "boxb/cuda:0"}, True),
        ({"device": "boxa/cuda:0"}, False),
        ({"device": "cpu"}, False),
        ({"owner": "anna", "device": "cuda:1"}, False),
    ],
)
def test_accounts_are_chosen_by_owner_flow_and_device(wanted, found):
    assert bool(chosen([account(host="boxb")], **wanted)) is found


def test_sums_are_of_each_owner_who_had_most_first():
    rows = [
        account(owner="ben@boxa"),
        account(),
        account(asked=1400.0, state="FAILED", slot=SlotUse()),
        account(device="cpu", ran_s=1800.0, slot=SlotUse()),
    ]
    anna, ben = sums(rows, "owner")
    assert (anna.name, anna.runs, anna.hours, anna.gpu_hours) == ("anna@boxa", 3, 2.5, 2.0)
    assert (anna.energy_wh, anna.energy_unknown, anna.failed) == (250.0, 1, 1)
    assert (anna.waited_median_s, anna.waited_longest_s) == (600.0, 600.0)
    assert (ben.runs, ben.gpu_hours) == (1, 1.0)
    assert total(rows).gpu_hours == 3.0
    assert [one.name for one in sums(rows, "device")] == ["cuda:0", "cpu"]
    assert total([]).waited_longest_s == 0


def test_of_a_run_that_reaches_beyond_a_time_its_part_counts():
    (cut,) = within([account()], 2500.0, 3400.0)  # 900 of 3,600 s
    assert (cut.ran_s, cut.gpu_hours, cut.energy_wh, cut.waited_s) == (900.0, 0.25, 62.5, 0.0)
    (whole,) = within([account()], 1600.0, 9000.0)
    assert whole == account()
    assert not within([account()], 5300.0, 9000.0)
    assert not within([account()], 0.0, 1600.0)
    (going,) = within([account(ended=None, state="RUNNING", ran_s=2400.0)], 2800.0, 4000.0)
    assert going.ran_s == 1200.0


def test_each_gpu_of_a_run_has_its_hours_and_its_part_of_the_energy():
    wide = account(device="cuda:0,cuda:2", host="boxb")
    assert (wide.device, wide.ran_s, wide.gpu_hours) == ("boxb/cuda:0,cuda:2", 3600.0, 2.0)
    assert [(one.name, one.gpu_hours, one.energy_wh) for one in sums([wide], "device")] == [
        ("boxb/cuda:0", 1.0, 125.0),
        ("boxb/cuda:2", 1.0, 125.0),
    ]
    (by_owner,) = sums([wide], "owner")
    assert (by_owner.runs, by_owner.hours, by_owner.gpu_hours) == (1, 1.0, 2.0)
    assert all(chosen([wide], device=device) for device in ("cuda", "cuda:2", "boxb/cuda:0"))
    assert not chosen([wide], device="cuda:1")
