"""A check that fails, hangs or dies costs its own row, and the rest goes on."""

import time

import pytest

from tasks.trial.plan import CHECKS, TrialCheck
from tasks.trial.report import CheckResult, Place, Report, checked, not_here
from tasks.trial.runner import call, run_checks

CPU = Place("cpu", "the CPU", "cpu", "cpu")
HERE = "tests.tasks.trial.test_runner"


def fine(place, folder):
    yield checked("fine", True, "1", "nothing")


def raises(place, folder):
    yield checked("before", True, "1", "nothing")
    raise ZeroDivisionError("by\nzero")


def slow(place, folder):
    time.sleep(0.2)
    yield checked("slow", False, "0", "hurry")


def checks(*names):
    return [TrialCheck(name, f"{HERE}.{name}", 5, computes=False) for name in names]


def test_what_a_check_raises_is_its_row_and_the_next_ones_follow(tmp_path):
    rows = list(run_checks(CPU, tmp_path, checks("raises", "fine", "slow")))
    assert [(row.check, row.verdict) for row in rows] == [("raises", "failed"), ("fine", "ok"), ("slow", "failed")]
    assert rows[0].figure == "ZeroDivisionError: by"
    assert rows[0].todo
    assert (rows[1].todo, rows[2].todo) == ("", "hurry")
    assert rows[2].seconds >= 0.2


def test_when_the_time_is_over_the_rest_says_so(tmp_path):
    times = iter([0.0, 0.0, 0.0, 1000.0, 1000.0])
    rows = list(run_checks(CPU, tmp_path, checks("fine", "slow"), clock=lambda: next(times)))
    assert [row.verdict for row in rows] == ["ok", "failed"]
    assert rows[1].figure.startswith("not run")


def test_a_process_that_dies_or_hangs_is_started_anew_for_the_next_check(tmp_path, monkeypatch):
    # The process knows its checks by name; what it imports for them is ours.
    monkeypatch.setenv("PYTHONPATH", ".")
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import time, os, sys\n"
        "from tasks.trial import plan\n"
        "kinds = {'dies': 'os.abort', 'hangs': 'time.sleep'}\n"
        "plan.CHECKS = tuple(plan.TrialCheck(n, f'trial_parts.{n}', 5) for n in ('dies', 'hangs', 'fine'))\n"
    )
    (tmp_path / "trial_parts.py").write_text(
        "import os, time\n"
        "from tasks.trial.report import checked\n"
        "def dies(place, folder): os.abort()\n"
        "def hangs(place, folder): time.sleep(100)\n"
        "def fine(place, folder): yield checked('fine', True, place.tag, '')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")
    monkeypatch.setattr("tasks.trial.runner.PATIENCE", {"cpu": 1.0})
    wanted = [TrialCheck("dies", "", 30), TrialCheck("hangs", "", 1), TrialCheck("fine", "", 30)]
    dies, hangs, well = run_checks(CPU, tmp_path, wanted)
    assert "ended by SIGABRT" in dies.figure
    assert hangs.figure == "said nothing in 1 s"
    assert (well.verdict, well.figure) == ("ok", "cpu")


def test_every_check_of_the_plan_is_there():
    for check in CHECKS:
        module, _, name = check.function.rpartition(".")
        assert callable(getattr(pytest.importorskip(module), name))


def test_an_unknown_check_is_a_row():
    (row,) = call(TrialCheck("gone", "tasks.trial.gone.gone", 5), CPU, None)
    assert row.verdict == "failed"
    assert "ModuleNotFoundError" in row.figure


def test_a_report_survives_json_and_says_the_whole():
    rows = [
        CheckResult("a", "ok", "1", seconds=1.0, values={"x": 1}),
        checked("b", False, "2", "mend it"),
        not_here("c", "none"),
    ]
    report = Report(CPU, 3.0, rows)
    assert Report.from_json(report.as_json()) == report
    assert report.sentence() == "cpu (the CPU): 1 of 2 checks failed: b; 1 not here"
    assert report.as_json()["ok"] is False
    assert Report(CPU, 3.0, rows[:1]).sentence() == "cpu (the CPU): all 1 checks passed in 3 s"
