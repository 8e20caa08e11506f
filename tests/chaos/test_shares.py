"""Fair share and quotas on a real yard: who had less goes first, and who is over a quota waits and says so."""

import sqlite3
import time
from datetime import datetime, timedelta

import pytest

from deployments.services.service import free_port
from gpu_pools.sharing.settings import FILE
from tests.chaos.yard import FINAL, Yard, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]

QUOTAS = "quotas: {owners: {carl: {slots: 1}, dora: {gpu_hours: 1}}}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A yard in which anna and dora have had GPUs for hours."""
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        for owner, hours in (("anna@boxa", 5), ("dora@boxa", 3)):
            run = running.hold("cuda.training", 0.5, owner=owner)
            running.until(running.is_(run, "COMPLETED"), 120, "it ends")
            _ran_for(running, run, hours)
        (running.home / FILE).write_text(QUOTAS)
        yield running


def _ran_for(made: Yard, run: str, hours: float) -> None:
    """Let a run of Prefect's database have taken hours."""
    took = f"{datetime(1970, 1, 1) + timedelta(hours=hours)}.000000"  # as SQLAlchemy keeps durations in SQLite
    with sqlite3.connect(made.home / "prefect" / "prefect.db", timeout=30) as database:
        assert database.execute("UPDATE flow_run SET total_run_time = ? WHERE id = ?", (took, run)).rowcount == 1
    assert made.ask("GET", f"/flow_runs/{run}", None)["total_run_time"] == hours * 3600


def message(made: Yard, run: str) -> str:
    return str(made.state(run)["message"] or "")


def test_who_had_less_lately_goes_first_and_the_other_knows_where_it_stands(made):
    both = [made.hold(f"cuda:{n}.training", 300, owner="emil@boxa") for n in range(2)]
    for run in both:
        made.until(made.begun(run), 90, "it begins")
    anna = made.hold("cuda.training", 0.5, owner="anna@boxb")
    time.sleep(1)
    ben = made.hold("cuda.training", 0.5, owner="ben@boxa")
    said = "; anna, 2nd of 2 who wait, had 4.9 GPU hours lately, ben 0.0: 1 run before this one"
    made.until(lambda: message(made, anna).endswith(said), 90, said)
    assert " before this one" not in message(made, ben)
    made.cancel(both[0])
    made.until(lambda: all(made.state(run)["type"] in FINAL for run in (anna, ben)), 120, "both end")
    assert made.of(ben)[0]["begin"] < made.of(anna)[0]["begin"]
    made.cancel(both[1])
    made.until(made.is_(both[1], *FINAL), 60, "it ends")


def test_who_is_over_a_quota_waits_beside_free_gpus_and_others_start(made):
    dora = made.hold("cuda:0.training", 0.5, owner="dora@boxb")
    said = "dora had 3.0 of 1 GPU hours in 7 days (quota): more from "
    made.until(lambda: message(made, dora).startswith(said), 90, said)
    first, second = (made.hold("cuda.training", 8, owner="carl@boxa") for _ in range(2))
    made.until(lambda: "Waiting" in made.state(second)["name"], 60, "it waits")
    assert message(made, second).startswith("carl: 1 of 1 GPU slots taken (quota): cuda:")
    made.until(made.is_(second, "COMPLETED"), 120, "it has its turn")
    assert made.of(second)[0]["begin"] > made.of(first)[0]["last"]
    assert made.state(dora)["type"] == "SCHEDULED"
    (made.home / FILE).write_text("admins: [anna]\n")
    made.until(made.is_(dora, "COMPLETED"), 60, "the quota is gone")
