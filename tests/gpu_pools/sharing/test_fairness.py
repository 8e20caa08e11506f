"""The yard's order over days: hardly less computed than first come first served, fair shares, and nobody starves."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fairness import HOUR, N_GPUS, START, Job, arrivals, fair_share, measure, simulate
from gpu_pools.names import person_of
from gpu_pools.placement.order import AGING_S, PATIENCE_S


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path_factory.getbasetemp()))


def test_a_simulation_of_days_keeps_gpus_busy_and_gives_people_their_shares(capsys):
    found = measure(days=3, load=1.3, seed=1)
    assert found["utilisation_ratio"] >= 0.95
    assert found["share_error"] <= 0.10
    assert found["share_error"] < found["share_error_first_come"]
    assert found["ratio"] > 1.5
    assert "fair share: GPUs busy " in capsys.readouterr().out


def test_the_same_seed_asks_for_the_same_runs_in_the_rhythm_of_days():
    jobs = arrivals(days=7, load=1.0, seed=3)
    assert jobs == arrivals(days=7, load=1.0, seed=3)
    assert sum(job.lasts_s for job in jobs) == pytest.approx(N_GPUS * 7 * 24 * HOUR, rel=0.01)
    by_day = [sum((job.asked - START) // 86_400 == day for job in jobs) for day in range(7)]
    assert max(by_day[5:]) < max(by_day[:5])


drawn = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 60), st.floats(0.1, 20)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(drawn, st.integers(0, 60))
def test_every_run_starts_and_is_overtaken_no_more_than_patience_lets_it(asked, n_flood):
    """However the runs come, and whoever floods the yard: who waits has a start a day and some runs after the last one.

    So a run is overtaken at most by what four GPUs start in that time, for each of its owner's runs before it.
    """
    flood = [("z", 0.0 + n / 10, 0.5) for n in range(n_flood)]
    jobs = [
        Job(f"{n:03d}", f"{who}@boxa", START + at * HOUR, lasts * HOUR)
        for n, (who, at, lasts) in enumerate([*asked, *flood])
    ]
    outcome = simulate(sorted(jobs, key=lambda job: job.asked), fair_share(), days=30)
    assert outcome.began.keys() == {job.run_id for job in jobs}
    longest_s, starts = max(job.lasts_s for job in jobs), defaultdict(list)
    for job in jobs:
        starts[person_of(job.owner)].append(outcome.began[job.run_id])
    for job in jobs:
        began, own = outcome.began[job.run_id], starts[person_of(job.owner)]
        served = [at for at in own if job.asked <= at <= began]
        # Beyond patience only those whose patience ended before go first: one of each other person's at a time.
        bound_s = PATIENCE_S + AGING_S + (len(starts) + 1) * longest_s
        assert all(after - before <= bound_s for before, after in pairwise([job.asked, *sorted(served)]))


def test_who_had_most_starts_once_a_day_though_newcomers_never_end():
    """Each hour four new people want one of four GPUs for an hour, after three hours' wait; all had less than anna."""
    before = [Job(f"before{n}", "anna@boxa", START - 200 * HOUR, 100 * HOUR) for n in range(N_GPUS)]
    hers = [Job(f"hers{n}", "anna@boxa", START, HOUR) for n in range(3)]
    new = [
        Job(f"new{n:03d}", f"new{n:03d}@boxa", START + max(0, n // 4 - 3) * HOUR, HOUR * ((n + 1) / 4 if n < 4 else 1))
        for n in range(4 * 24 * 4)
    ]
    outcome = simulate([*before, *hers, *new], fair_share(), days=1)
    times = [START, *sorted(outcome.began[job.run_id] for job in hers)]
    for last, at in pairwise(times):
        overtakes = sum(last <= outcome.began[job.run_id] < at for job in new)
        assert overtakes <= N_GPUS * (at - last) / HOUR + N_GPUS
        assert PATIENCE_S - HOUR <= at - last <= PATIENCE_S + AGING_S + HOUR
