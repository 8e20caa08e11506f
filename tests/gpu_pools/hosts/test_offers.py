"""Offers of hosts: what a label keeps of them, and who starts a run with whom."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_pools.hosts.offers import LABEL, Offer, is_among_first, offers_of, others_in_s, team_of

READY = Offer(0, kept=True)


@given(st.floats(1, 1e6) | st.sampled_from([0.0, math.inf]), st.booleans(), st.text(max_size=20))
def test_a_label_keeps_an_offer_to_the_minute(ready_in_s, kept, text):
    (read,) = offers_of({f"{LABEL}boxb": Offer(ready_in_s, kept, text).as_label(), "other": "1"}).values()
    assert (read.kept, read.text, read.ready_in_s <= 0) == (kept, text, ready_in_s <= 0)
    assert read.ready_in_s == ready_in_s or 0 <= read.ready_in_s - ready_in_s <= 60


@pytest.mark.parametrize(
    "label", ["", "x", "[]", "3", '{"kept": 1}', '{"ready_in_s": "x", "kept": true, "text": ""}', 7]
)
def test_what_is_no_offer_counts_as_none(label):
    assert offers_of({f"{LABEL}boxb": label}) == {}


def test_devices_that_are_free_but_not_kept_are_no_offer_that_stands():
    assert READY.stands
    assert not Offer(0, kept=False).stands
    assert not Offer(60, kept=True).stands


HOSTS = ["boxa", "boxb", "boxc", "boxd"]


@given(st.dictionaries(st.sampled_from(HOSTS), st.sampled_from([READY, Offer(60, True), Offer()])), st.integers(2, 4))
def test_exactly_one_of_the_hosts_that_are_ready_leads_and_all_agree_on_the_team(offers, n_hosts):
    ready = [host for host in HOSTS if host in offers and offers[host].stands]
    teams = {host: team_of(host, offers, n_hosts) for host in ready}
    led = {host: team for host, team in teams.items() if team}
    if len(ready) < n_hosts:
        assert not led
    else:
        assert led == {ready[0]: tuple(ready[1:n_hosts])}


def test_a_host_that_is_ready_waits_for_one_that_is_not():
    assert team_of("boxa", {"boxb": Offer(0, False)}, 2) == ()
    assert team_of("boxa", {}, 2) == ()


def test_it_is_known_when_enough_others_are_ready():
    offers = {"boxb": Offer(600), "boxc": Offer(60), "boxa": READY}
    assert others_in_s("boxa", offers, 2) == 60
    assert others_in_s("boxa", offers, 3) == 600
    assert math.isinf(others_in_s("boxa", offers, 4))


def test_hosts_that_would_be_late_keep_nothing():
    offers = {"boxb": Offer(0), "boxc": Offer(60)}
    assert is_among_first("boxa", 0, offers, 2)
    assert not is_among_first("boxd", 120, offers, 2)
    assert is_among_first("boxd", math.inf, offers, 3)
