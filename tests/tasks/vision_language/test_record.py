"""What a gate did, as rows in MLflow."""

import pytest

from tasks.tracking import mlflow_api
from tasks.tracking.tracker import Tracker
from tasks.vision_language.gate.counters import Counters, Watch
from tasks.vision_language.gate.request_slots import RequestSlots
from tasks.vision_language.record import Record


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def answered(counters, n_tokens):
    watch = Watch(counters)
    watch.said(1)
    watch.ended({"prompt_tokens": 7, "completion_tokens": n_tokens})
    counters.requests.labels("200").inc()


def series(run_id, key):
    return [(row.step, row.value) for row in mlflow_api.client().get_metric_history(run_id, key)]


def test_a_row_is_written_where_something_has_happened_and_goes_on_after_a_restart(at_home):
    counters, slots = Counters(RequestSlots(3)), RequestSlots(3)
    with Tracker.open(at_home / "run", "serving", "a", {}) as tracker:
        record = Record(counters, slots, tracker)
        for n_answers in (0, 2, 0, 1):
            for _ in range(n_answers):
                answered(counters, 5)
            record.write()
        counters.requests.labels("429").inc()
        counters.requests.labels("502").inc()
        record.write()
        slots.limit = 5
        record.write()
        tracker.leave_open()
    with Tracker.reopen(at_home / "run") as tracker:
        again = Counters(slots)
        record = Record(again, slots, tracker)
        answered(again, 1)
        record.write()
    run = tracker.run_id
    assert series(run, "requests/answered") == [(0, 0), (1, 2), (2, 3), (3, 3), (4, 3), (5, 1)]
    assert series(run, "tokens/generated") == [(0, 0), (1, 10), (2, 15), (3, 15), (4, 15), (5, 1)]
    assert series(run, "requests/busy")[3:] == [(3, 1), (4, 1), (5, 0)]
    assert series(run, "requests/refused_or_failed")[3:5] == [(3, 1), (4, 1)]
    assert [step for step, _ in series(run, "first_token_s/median")] == [1, 2, 5]
    assert [value for _, value in series(run, "queue/limit")] == [3, 3, 3, 3, 5, 5]


def test_the_95th_percentile_is_one_of_the_times(at_home):
    counters = Counters(RequestSlots(1))
    with Tracker.open(at_home / "run", "serving", "a", {}) as tracker:
        record = Record(counters, RequestSlots(1), tracker)
        counters.first_times.extend(n / 100 for n in range(100, 0, -1))
        counters.requests.labels("200").inc()
        record.write()
        assert tracker.latest("first_token_s/median") == pytest.approx(0.505)
        assert tracker.latest("first_token_s/p95") == pytest.approx(0.95)
