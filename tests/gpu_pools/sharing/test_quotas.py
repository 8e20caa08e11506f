"""What people and groups may have of GPUs."""

import os
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_pools.names import FROM_PAGE
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.place import DeviceState, Start, Wait, place
from gpu_pools.placement.queues import Queue
from gpu_pools.sharing.quotas import WEEK_S, QuotaSource, ends_at, holdings_of, week_use_s
from gpu_pools.sharing.settings import SettingsReader, YardSettings, read_settings, settings_path
from gpu_pools.sharing.share_settings import Quota
from gpu_pools.sharing.usage import Use
from gpu_pools.slots.lease import Holder, acquire
from tasks.base.errors import ConfigError

NOW = time.mktime((2026, 3, 4, 15, 0, 0, 0, 0, -1))
HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))


def use(hours, *, ago_s=0.0, owner="anna@boxa", device="cuda:0", host="boxa", state="COMPLETED"):
    until = NOW - ago_s
    began = until - hours * HOUR
    ended = None if state == "RUNNING" else until
    return Use(
        *("r", "there", owner, "train", "train", device, host, "training", began, began, ended, state, state.title()),
        *(hours * HOUR, until),
    )


class Known:
    """A reader that knows."""

    def __init__(self, *uses):
        self.known, self.n_asked, self.read_at = uses, 0, NOW

    def uses(self):
        self.n_asked += 1
        return list(self.known)


def asks(run_id, owner="anna@boxa", device="cuda"):
    return Waiting(run_id, f"run-{run_id}", Queue(device, "training"), 5, NOW, owner)


def gpu(index=0, holders=()):
    uuid = f"GPU-{index}"
    return DeviceState(f"cuda:{index}", uuid, "X", {"training": 1}, tuple(holders), 0, 0, (), frozenset())


CPU = DeviceState("cpu", "cpu", "CPU", {"training": 1}, (), 0, None, (), frozenset())


def decide(settings, waiting, *uses, devices=None):
    settings_path().write_text(settings)
    source = QuotaSource(Known(*uses), SettingsReader(), "boxa", lambda: NOW)
    devices = devices or [gpu(0), gpu(1), gpu(2), CPU]
    decisions = place(waiting, devices, host="boxa", now=NOW, rules=[source.rule(waiting)])
    return {one.run_id: one.reason if isinstance(one, Wait) else type(one) for one in decisions}


# ---- slots


def test_who_has_all_slots_of_the_quota_waits_and_others_start():
    found = decide("quotas: {each: {slots: 2}}\n", [asks("a"), asks("b"), asks("c"), asks("d", "ben@boxa")])
    said = "anna: 2 of 2 GPU slots taken (quota): run-a, which starts now; run-b, which starts now"
    assert found == {"a": Start, "b": Start, "c": said, "d": Start}


def test_slots_that_are_held_count_here_and_on_other_hosts_and_the_cpu_does_not():
    elsewhere = use(1, host="boxb", device="cuda:3", state="RUNNING")
    holder = Holder("h", "held", "anna@boxb", "cuda:0", "GPU-0", "training", -1, os.getpid(), NOW - HOUR, None)
    waiting = [asks("a"), asks("cpu", device="cpu")]
    with acquire("GPU-0", "training", 1, holder):
        found = decide("quotas: {owners: {anna: {slots: 2}}}\n", waiting, elsewhere)
    said = "anna: 2 of 2 GPU slots taken (quota): cuda:0 has held of anna@boxb since 14:00; boxb/cuda:3 has there"
    assert found == {"a": said, "cpu": Start}


def test_the_slot_that_is_kept_for_a_run_that_died_is_its_own():
    holder = Holder("a", "died", "anna@boxa", "cuda:0", "GPU-0", "training", -1, os.getpid(), NOW, None)
    with acquire("GPU-0", "training", 1, holder):
        assert decide("quotas: {each: {slots: 1}}\n", [asks("a")]) == {"a": Start}


def test_a_group_has_its_slots_together():
    settings = "groups: {vision: [anna, ben@boxa]}\nquotas: {groups: {vision: {slots: 1}}}\n"
    found = decide(settings, [asks("a"), asks("b", "ben@boxa"), asks("c", "ben@boxb")])
    assert found["a"] is Start
    assert found["b"] == "group vision: 1 of 1 GPU slots taken (quota): run-a, which starts now"
    assert found["c"] is Start


# ---- hours


def test_whose_hours_are_spent_waits_until_enough_of_them_are_a_week_ago():
    first, second = use(3, ago_s=6 * DAY), use(4, ago_s=DAY)
    found = decide("quotas: {owners: {anna: {gpu_hours: 5}}}\n", [asks("a"), asks("b", "ben@boxa")], first, second)
    # 7 h are 2 too many: those first had, which began 6 days and 3 hours ago, count until a day less 1 hour from now.
    said = "anna had 7.0 of 5 GPU hours in 7 days (quota): more from 2026-03-05 14:10"
    assert found == {"a": said, "b": Start}


def test_the_quota_is_said_also_where_no_gpu_is_free():
    holder = Holder("h", "held", "ben@boxa", "cuda:0", "GPU-0", "training", -1, 1, NOW, None)
    found = decide("quotas: {each: {gpu_hours: 5}}\n", [asks("a")], use(5), devices=[gpu(0, [holder])])
    assert found["a"].startswith("anna had 5.0 of 5 GPU hours in 7 days (quota): more from ")


def test_of_no_hours_nothing_ends():
    found = decide("quotas: {owners: {anna@boxa: {gpu_hours: 0}}}\n", [asks("a"), asks("b", "anna@boxb")])
    assert found == {"a": "anna@boxa had 0.0 of 0 GPU hours in 7 days (quota)", "b": Start}


def test_before_prefect_has_said_what_was_had_nobody_with_a_quota_of_hours_starts():
    settings_path().write_text("quotas: {each: {slots: 9}, owners: {anna: {gpu_hours: 5}}}\n")
    known, waiting = Known(), [asks("a"), asks("b", "ben@boxa")]
    known.read_at = float("-inf")
    source = QuotaSource(known, SettingsReader(), "boxa", lambda: NOW)
    assert place(waiting, [gpu(0), gpu(1)], host="boxa", now=NOW, rules=[source.rule(waiting)]) == [
        Wait("a", "the GPU hours of anna (quota) are being read"),
        Start("b", ("GPU-0",)),
    ]
    known.read_at, known.known = NOW, (use(5),)
    assert "anna had 5.0 of 5" in (source.rule(waiting).against(waiting[0], gpu(), {}) or "")


def test_only_what_is_within_seven_days_and_on_gpus_counts():
    uses = [use(2, ago_s=WEEK_S - HOUR), use(3, ago_s=DAY), use(9, ago_s=WEEK_S), use(5, device="cpu")]
    assert week_use_s(uses, NOW) == pytest.approx(4 * HOUR)


stretches = st.lists(st.tuples(st.floats(0.1, 90), st.floats(0, 8 * DAY)), min_size=1, max_size=8)


@given(stretches, st.floats(0.5, 80))
def test_a_quota_ends_when_less_than_it_has_been_had(drawn, hours):
    uses = [use(length, ago_s=ago) for length, ago in drawn]
    end = ends_at(uses, Quota(gpu_hours=hours), NOW)
    assert week_use_s(uses, end) < hours * HOUR
    assert end == NOW or week_use_s(uses, end - 2) >= hours * HOUR


# ---- settings


def test_without_quotas_nobody_is_asked():
    known = Known(use(9))
    settings_path().write_text("admins: [anna]\n")
    rule = QuotaSource(known, SettingsReader(), "boxa", lambda: NOW).rule([asks("a")])
    assert rule.against(asks("a"), gpu(), {}) is None
    assert known.n_asked == 0


def test_a_quota_of_ones_own_stands_for_that_of_each():
    quotas = {"each": {"slots": 1}, "owners": {"anna": {"slots": 3}}, "groups": {"lab": {"gpu_hours": 9}}}
    settings = YardSettings.model_validate({"groups": {"lab": ["anna"]}, "quotas": quotas})
    assert [(one.who, one.quota.slots) for one in holdings_of("anna@boxa", settings)] == [
        *(("anna", 3), ("group lab", None)),
    ]
    assert [(one.who, one.quota.slots) for one in holdings_of("ben@boxa", settings)] == [("ben", 1)]
    assert [one.who for one in holdings_of(FROM_PAGE, settings)] == ["runs asked in Prefect's page"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quotas: {groups: {vision: {slots: 1}}}\n", "found quotas of group 'vision', need one of groups: none"),
        ("quotas: {each: {slots: -1}}\n", "quotas.each.slots: Input should be greater than or equal to 0"),
        ("quotas: {anna: {slots: 1}}\n", "quotas.anna: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    settings_path().write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings()
    assert said in str(caught.value)


def test_a_run_on_several_gpus_needs_as_many_slots_and_has_their_hours():
    rules, wide = "quotas: {each: {slots: 2}}", replace(asks("w"), n_devices=2)
    assert decide(rules, [wide]) == {"w": Start}
    text = "anna: 0 of 2 GPU slots taken (quota); this run needs 3"
    assert decide(rules, [replace(wide, n_devices=3)]) == {"w": text}
    elsewhere = use(1, device="cuda:0,cuda:1", host="boxb", state="RUNNING")
    said = "anna: 2 of 2 GPU slots taken (quota): boxb/cuda:0 has there; boxb/cuda:1 has there"
    assert decide(rules, [asks("a")], elsewhere) == {"a": said}
    assert week_use_s([elsewhere], NOW) == 2 * HOUR
