"""A yard whose deployments had their old names goes on after an upgrade: runs, schedules, and who asks by old names."""

import signal
import subprocess
import sys
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.services.service import free_port
from tests.chaos.test_pipeline import pictures, stages, start
from tests.chaos.yard import CLASSIFICATION, ROOT, Yard, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]
__all__ = ["pictures"]  # a fixture

NEW = {d["entrypoint"]: d["name"] for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
GUARDED = {
    "PREFECT_PLUGINS_ENABLED": "true",
    "PREFECT_PLUGINS_ALLOW": "trainyard",
    "PREFECT_PLUGINS_STRICT": "true",
}
SCHEDULE = {"cron": "30 3 * * 1", "timezone": "Europe/Berlin", "day_or": True}


@pytest.fixture
def made(tmp_path):
    with yard(tmp_path / "yard", free_port()) as running:
        running.deploy_classification()
        yield running


def deployments(made: Yard) -> dict[str, dict[str, Any]]:
    """Return entrypoint -> deployment of the project's flows."""
    rows = made.post("/deployments/filter", {})
    found = [row for row in rows if row["entrypoint"].startswith("flows.")]
    assert len({row["entrypoint"] for row in found}) == len(found)  # none is there twice
    return {row["entrypoint"]: row for row in found}


def apply(made: Yard) -> None:
    """Do what `yard up` does with prefect.yaml."""
    subprocess.run([sys.executable, "-m", "deployments.apply"], cwd=ROOT, env=made.env, check=True, timeout=200)


def schedules(made: Yard, deployment: str) -> list[tuple[Any, ...]]:
    """Return slug, whether it is on, when, and parameters of the schedules of a deployment."""
    rows = made.ask("GET", f"/deployments/{deployment}/schedules", None)
    return sorted((row["slug"] or "", row["active"], row["schedule"], row["parameters"]) for row in rows)


def test_a_pipeline_goes_on_with_the_stages_it_had_started(made, pictures):
    old = {f"flows.classification.{name}": made.deployment(name) for name in CLASSIFICATION}
    pipeline = old["flows.classification.classification"]
    of_people = [{"schedule": SCHEDULE, "active": True, "parameters": {"data": "/data"}, "slug": "mine"}]
    made.post(f"/deployments/{pipeline}/schedules", of_people)
    run = start(made, pictures, "upgraded", epochs=60)
    checkpoint = made.home / "runs" / run / "training" / "checkpoint.pt"
    made.until(checkpoint.is_file, 400, "the training has saved its state")
    begun = [stage["id"] for stage in stages(made, run)]
    assert len(begun) == 2
    made.workers["one"].send_signal(signal.SIGUSR1)  # `yard down --now`
    assert made.workers["one"].wait(120) == 0

    apply(made)  # on a server that does not rename, as one of others: no deployment is there twice
    assert {entrypoint: deployments(made)[entrypoint]["name"] for entrypoint in old} == dict.fromkeys(old, "yard")
    assert deployments(made)["flows.splatting.splatting"]["name"] == "build-splat"

    made.kill(made.server)
    made.env |= GUARDED
    made.start_server()
    found = deployments(made)
    assert {entrypoint: row["name"] for entrypoint, row in found.items()} == NEW
    assert {entrypoint: found[entrypoint]["id"] for entrypoint in old} == old
    assert schedules(made, pipeline)[0] == ("mine", True, SCHEDULE, {"data": "/data"})
    apply(made)
    assert {entrypoint: deployments(made)[entrypoint]["id"] for entrypoint in old} == old
    assert schedules(made, pipeline)[0] == ("mine", True, SCHEDULE, {"data": "/data"})
    with temporary_settings({PREFECT_API_URL: made.api}), get_client(sync_client=True) as client:
        for name in ("yard", "build-classifier"):  # what `prefect deployment run` asks for
            assert str(client.read_deployment_by_name(f"classification/{name}").id) == pipeline

    made.start_worker("one")
    made.until(made.is_(run, "COMPLETED"), 400, "the pipeline ends well")
    ran = stages(made, run)
    assert [stage["id"] for stage in ran][:2] == begun
    assert [stage["deployment_id"] for stage in ran] == list(old.values())[1:]
    assert [stage["run_count"] for stage in ran] == [1, 2, 1]
