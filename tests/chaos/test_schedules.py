"""Schedules fire on the versions that are installed, and the worker runs what they make."""

import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from deployments.services.service import free_port
from tests.chaos.yard import ROOT, Yard, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

EVERY_MINUTE = {"cron": "* * * * *", "timezone": "UTC"}
APPLY = "import pathlib, sys; from deployments.apply import apply; apply(pathlib.Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("schedules"), free_port()) as running:
        yield running


def scheduled(made, deployment):
    """Return the runs that schedules have made of a deployment."""
    flow_runs = {"deployment_id": {"any_": [deployment]}, "tags": {"all_": ["auto-scheduled"]}}
    return made.post("/flow_runs/filter", {"flow_runs": flow_runs, "sort": "EXPECTED_START_TIME_ASC"})


def completes(made, deployment):
    made.until(lambda: scheduled(made, deployment), 150, "the schedule makes runs")
    made.until(
        lambda: "COMPLETED" in {run["state"]["type"] for run in scheduled(made, deployment)}, 300, "a run completes"
    )
    (first, *_) = [run for run in scheduled(made, deployment) if run["state"]["type"] == "COMPLETED"]
    assert first["created_by"]["type"] == "SCHEDULE"
    begun, due = (datetime.fromisoformat(first[name]) for name in ("start_time", "expected_start_time"))
    assert begun >= due
    assert made.of(first["id"])[0]["end"] is True


def test_a_cron_set_by_rest_fires_and_its_run_completes(made):
    deployment = made.deployment("hold")
    parameters = {"folder": str(made.home), "seconds": 0.1}
    schedule = {"schedule": EVERY_MINUTE, "active": True, "parameters": parameters}
    (kept,) = made.post(f"/deployments/{deployment}/schedules", [schedule])
    try:
        completes(made, deployment)
    finally:
        made.ask("DELETE", f"/deployments/{deployment}/schedules/{kept['id']}", None)


def test_a_cron_of_prefect_yaml_fires_and_its_run_completes(made, tmp_path):
    hold = made.ask("GET", f"/deployments/{made.deployment('hold')}", None)
    entry = {
        "name": "minutely",
        "entrypoint": hold["entrypoint"],
        "work_pool": {"name": "gpu", "work_queue_name": "cuda.training"},
        "schedules": [{"slug": "minutely", **EVERY_MINUTE}],
        "parameters": {"folder": str(made.home), "seconds": 0.1},
    }
    spec = tmp_path / "prefect.yaml"
    spec.write_text(yaml.safe_dump({"deployments": [entry]}))
    subprocess.run([sys.executable, "-c", APPLY, str(spec)], env=made.env, cwd=ROOT, check=True)
    completes(made, made.ask("GET", "/deployments/name/hold/minutely", None)["id"])


def test_what_fires_while_no_worker_is_there_starts_once(tmp_path):
    """As after a night: runs of the schedule have come due one after the other, and nobody started them."""
    made = Yard(tmp_path, free_port())
    try:
        made.start_server()
        made.start_worker("first")
        made.until(lambda: made.serves("first"), 240, "the pool is there")
        made.kill(made.workers.pop("first"))
        made.deploy_runs()
        deployment, other = made.deployment("hold"), made.hold("cuda.training", 0.1)
        parameters = {"folder": str(made.home), "seconds": 0.1}
        schedule = {"schedule": {"interval": 4, "timezone": "UTC"}, "active": True, "parameters": parameters}
        (kept,) = made.post(f"/deployments/{deployment}/schedules", [schedule])
        made.until(lambda: len(due(made, deployment)) >= 6, 150, "six runs are due")
        made.ask("PATCH", f"/deployments/{deployment}/schedules/{kept['id']}", {"active": False})
        missed = due(made, deployment)
        made.start_worker("second")
        made.until(lambda: not due(made, deployment), 120, "none waits any more")
        made.until(lambda: made.state(missed[-1])["type"] == "COMPLETED", 60, "the newest runs")
        states = [made.state(run) for run in missed]
        assert [state["name"] for state in states[:-1]] == ["Skipped"] * (len(missed) - 1)
        assert "was due after it, and stands for both" in states[0]["message"]
        made.until(lambda: made.state(other)["type"] == "COMPLETED", 60, "what a person asked for runs as well")
    finally:
        made.stop()


def due(made, deployment):
    """Return the runs of schedules that wait and are due, oldest first."""
    now = datetime.now(UTC)
    return [
        run["id"]
        for run in scheduled(made, deployment)
        if run["state"]["type"] == "SCHEDULED" and datetime.fromisoformat(run["expected_start_time"]) <= now
    ]


def test_the_daily_report_fires_by_its_cron_and_shows_who_had_what(made, tmp_path):
    shipped = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (entry,) = (one for one in shipped if one["name"] == "daily-report")
    (schedule,) = entry["schedules"]
    assert schedule["active"] is True
    held = made.hold("cuda.training", 1.0, owner="anna@boxa")
    made.until(lambda: made.state(held)["type"] == "COMPLETED", 120, "a run has had a device")
    spec = tmp_path / "prefect.yaml"
    spec.write_text(yaml.safe_dump({"deployments": [entry | {"schedules": [schedule | EVERY_MINUTE]}]}))
    subprocess.run([sys.executable, "-c", APPLY, str(spec)], env=made.env, cwd=ROOT, check=True)
    deployment = made.ask("GET", "/deployments/name/report/daily-report", None)["id"]

    def of_type(kind):
        return [run for run in scheduled(made, deployment) if run["state"]["type"] == kind]

    made.until(lambda: of_type("COMPLETED") or of_type("FAILED"), 300, "a report was made")
    assert not of_type("FAILED")
    (first, *_) = of_type("COMPLETED")
    assert first["created_by"]["type"] == "SCHEDULE"
    wanted = {"artifacts": {"flow_run_id": {"any_": [first["id"]]}, "key": {"any_": ["daily-report"]}}}
    (page,) = made.post("/artifacts/filter", wanted)
    assert re.search(r"\| anna@boxa \| [1-9]\d* \|", page["data"])
    assert "(data:image/png;base64," in page["data"]
