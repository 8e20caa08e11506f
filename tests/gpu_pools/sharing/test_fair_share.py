"""What each person had lately."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_pools.names import FROM_PAGE
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.queues import Queue
from gpu_pools.sharing.fair_share import HALF_LIFE_S, FairShare, Share, decayed, shares
from gpu_pools.sharing.settings import SettingsReader, settings_path
from gpu_pools.sharing.usage import Use

NOW = 1_800_000_000.0
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


def use(owner="anna@boxa", hours=1.0, *, ago_s=0.0, device="cuda:0", kind="training", queue="cuda.training"):
    until = NOW - ago_s
    began = until - hours * HOUR
    return Use(
        *("r", "run", owner, "train", "train", device, "boxa", kind, began, began, until, "COMPLETED", "Completed"),
        *(hours * HOUR, until),
        queue=queue,
    )


def test_a_persons_gpu_hours_of_all_hosts_are_one_sum_and_those_of_the_cpu_are_apart():
    found = shares([use(hours=2), use("anna@boxb", 1), use(hours=5, device="cpu"), use("ben@boxa", 0.5)], NOW)
    assert found["anna"].gpu_s == pytest.approx(3 * HOUR, rel=0.01)
    assert found["anna"].cpu_s == pytest.approx(5 * HOUR, rel=0.02)
    assert found["ben"].gpu_s == pytest.approx(0.5 * HOUR, rel=0.01)
    assert found["ben"].cpu_s == 0


def test_what_was_had_a_week_ago_counts_half():
    now, before = decayed(HOUR, 0.0), decayed(HOUR, HALF_LIFE_S)
    assert before == pytest.approx(now / 2)
    assert shares([use(ago_s=2 * HALF_LIFE_S)], NOW)["anna"].gpu_s == pytest.approx(now / 4)


@given(st.floats(0, 30 * 86400), st.floats(0, 30 * 86400), st.floats(0, 1))
def test_a_stretch_counts_as_much_as_its_two_parts(ran_s, ago_s, part):
    first, second = ran_s * part, ran_s * (1 - part)
    assert decayed(ran_s, ago_s) == pytest.approx(decayed(second, ago_s) + decayed(first, ago_s + second), abs=1e-3)
    assert 0 <= decayed(ran_s, ago_s) <= ran_s + 1e-9


def test_housekeeping_counts_for_nobody_and_who_said_no_name_has_a_share_of_their_own():
    uses = [use(device="cpu", kind="housekeeping"), use(FROM_PAGE, 2)]
    assert {person: share.gpu_s > 0 for person, share in shares(uses, NOW).items()} == {FROM_PAGE: True}


class Known:
    """A reader that knows."""

    def __init__(self, *uses):
        self.known, self.n_asked = uses, 0

    def uses(self):
        self.n_asked += 1
        return list(self.known)


def asks(owner, device="cuda"):
    return Waiting(owner, owner, Queue(device, "training"), 5, NOW, owner)


def test_waiting_runs_know_what_their_owners_had_of_what_they_ask_for():
    had = [use(hours=4, ago_s=60), use(hours=8, device="cpu", queue="cpu.training")]
    fair_share = FairShare(Known(*had), SettingsReader(), lambda: NOW)
    anna, cpu, ben = fair_share.told([asks("anna@b"), asks("anna@b", "cpu"), asks("ben@b")])
    assert anna.recent_use_s == pytest.approx(4 * HOUR, rel=0.01)
    assert cpu.recent_use_s == pytest.approx(8 * HOUR, rel=0.02)
    assert (ben.recent_use_s, ben.served) == (0.0, 0.0)
    assert anna.served == had[0].began
    assert cpu.served == had[1].began


def test_nothing_is_asked_where_all_that_waits_is_one_persons():
    known = Known(use())
    waiting = [asks("anna@boxa"), asks("anna@boxb")]
    assert FairShare(known, SettingsReader(), lambda: NOW).told(waiting) == waiting
    assert known.n_asked == 0


def test_sums_are_some_seconds_old_at_most():
    now, known = NOW, Known(use())
    fair_share = FairShare(known, SettingsReader(), lambda: now)
    waiting = [asks("anna@boxa"), asks("ben@boxa")]
    fair_share.told(waiting)
    known.known = (replace(known.known[0], ran_s=9 * HOUR),)
    fair_share.told(waiting)
    assert known.n_asked == 1
    now += 10
    assert fair_share.told(waiting)[0].recent_use_s > 8 * HOUR


def test_the_half_life_is_set_for_the_yard():
    settings_path().write_text("fair_share: {half_life: 1d}\n")
    waiting = [asks("anna@boxa"), asks("ben@boxa")]
    anna, _ = FairShare(Known(use(ago_s=86400.0)), SettingsReader(), lambda: NOW).told(waiting)
    assert anna.recent_use_s == pytest.approx(HOUR / 2, rel=0.02)


def test_what_a_process_said_of_its_run_counts_where_it_is_more_than_what_is_known_here():
    told = replace(asks("ben@boxb"), recent_use_s=3 * HOUR, served=NOW - 60)
    _, ben = FairShare(Known(use()), SettingsReader(), lambda: NOW).told([asks("anna@boxa"), told])
    assert ben == told


def test_a_start_counts_before_the_server_tells_of_it():
    fair_share = FairShare(Known(), SettingsReader(), lambda: NOW)
    fair_share.note_start(asks("anna@boxa"))
    waiting = [asks("anna@boxb"), asks("anna@boxa", "cuda:1"), asks("ben@boxa")]
    assert [run.served for run in fair_share.told(waiting)] == [NOW, 0.0, 0.0]


def test_nobody_has_a_share_of_nothing():
    assert shares([], NOW) == {}
    assert Share() == Share(0.0, 0.0)


def test_each_gpu_of_a_run_counts():
    one, three = (shares([use(device=device)], NOW)["anna"].gpu_s for device in ("cuda:0", "cuda:0,cuda:1,cuda:3"))
    assert three == pytest.approx(3 * one)
