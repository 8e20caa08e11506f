"""The server gets pool, queues and deployments; done again nothing changes, least of all what people changed."""

import asyncio

import httpx
import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.apply import _as_called, _deployments, apply
from deployments.runs.prefect_http import ask, asking, online_workers, queue_counts
from deployments.services.service import ServiceError
from deployments.stack.stack import free_port, prefect_service, running
from tasks.base.errors import ConfigError
from tasks.base.project_files import project_file
from tests.deployments.conftest import server_environment

SPEC = yaml.safe_load(project_file("prefect.yaml").read_text())["deployments"]


@pytest.fixture(scope="module")
def api(server_home):
    with server_environment(server_home) as patch:
        patch.setenv("TRAINYARD_SIMULATE_GPUS", "1")
        service = prefect_service(free_port(), ui=False)
        patch.setenv("PREFECT_API_URL", f"{service.url}/api")
        with running(service), temporary_settings({PREFECT_API_URL: f"{service.url}/api"}):
            with asking(f"{service.url}/api") as call:
                assert queue_counts(call) == []
                assert online_workers(call) == []
            assert apply() == len(SPEC)
            yield f"{service.url}/api"


def deployments(api):
    (found,) = ask(api, ("POST", "/deployments/filter", {}))
    return {deployment["entrypoint"]: deployment for deployment in found}


def pool(api):
    return ask(api, ("GET", "/work_pools/gpu", None))[0]


def limits(api):
    with asking(api) as call:
        return {count.queue: count.limit for count in queue_counts(call)}


def test_the_pool_has_the_workers_type_and_asks_for_what_a_run_may_say(api):
    assert pool(api)["type"] == "gpu-process"
    asked = pool(api)["base_job_template"]["variables"]["properties"]
    assert {"priority", "when_busy", "time_limit", "owner", "env"} <= set(asked)


def test_every_queue_of_the_host_has_its_default_limit(api):
    assert limits(api) == {
        "cuda.training": None,
        "cuda.inference": None,
        "cuda:0.training": 1,
        "cuda:0.inference": 3,
        "cpu.training": 2,
        "cpu.inference": 4,
        "cpu.preparation": 2,
        "cpu.pipeline": 16,
        "cpu.housekeeping": 1,
        "default": None,  # Prefect's own
    }


def test_every_deployment_is_there_with_its_queue(api):
    found = deployments(api)
    for deployment in SPEC:
        made = found[deployment["entrypoint"]]
        assert made["work_queue_name"] == deployment["work_pool"]["work_queue_name"]
        assert made["description"] == deployment["description"]
        assert (made["path"], made["pull_steps"]) == (None, [])
        assert [schedule["slug"] for schedule in made["schedules"]] == [
            schedule["slug"] for schedule in deployment.get("schedules", [])
        ]


def test_again_changes_nothing_and_keeps_what_people_changed(api):
    before = deployments(api)
    scheduled = next(deployment for deployment in before.values() if deployment["schedules"])
    schedule = f"{api}/deployments/{scheduled['id']}/schedules/{scheduled['schedules'][0]['id']}"
    template = pool(api)["base_job_template"]
    template["variables"]["properties"]["priority"]["default"] = 2
    for url, body in (
        (f"{api}/work_pools/gpu/queues/cuda:0.training", {"concurrency_limit": 7}),
        (schedule, {"active": True}),
        (f"{api}/work_pools/gpu", {"base_job_template": template}),
    ):
        httpx.patch(url, json=body).raise_for_status()
    apply()
    assert limits(api)["cuda:0.training"] == 7
    assert pool(api)["base_job_template"] == template
    after = deployments(api)
    assert {entrypoint: found["id"] for entrypoint, found in after.items()} == {
        entrypoint: found["id"] for entrypoint, found in before.items()
    }
    (kept,) = after[scheduled["entrypoint"]]["schedules"]
    assert kept["active"] is True


@pytest.mark.parametrize(
    "when",
    [
        {"cron": "* * * * *", "timezone": "Europe/Berlin", "day_or": False},
        {"interval": 90.5, "anchor_date": "2030-01-01T00:00:00Z", "timezone": "UTC"},
        {"rrule": "FREQ=MINUTELY", "timezone": "UTC"},
    ],
    ids=["cron", "interval", "rrule"],
)
def test_a_schedule_that_people_added_stays(api, when):
    scheduled = next(deployment for deployment in deployments(api).values() if deployment["schedules"])
    url = f"{api}/deployments/{scheduled['id']}/schedules"
    added = [{"schedule": when, "active": True, "parameters": {"data": "/data"}}]
    httpx.post(url, json=added).raise_for_status()

    def of_people():
        return [each for each in httpx.get(url).json() if each["slug"] != "nightly"]

    (before,) = of_people()
    apply()
    (after,) = of_people()
    same = ("schedule", "active", "parameters", "slug")
    assert [after[name] for name in same] == [before[name] for name in same]
    httpx.delete(f"{url}/{after['id']}").raise_for_status()


def test_deployments_are_read_to_the_last_page(api, monkeypatch):
    from prefect.client.orchestration import get_client

    async def entrypoints():
        async with get_client() as client:
            return {found.entrypoint async for found in _deployments(client)}

    monkeypatch.setattr("deployments.apply.PAGE", 5)
    assert asyncio.run(entrypoints()) == {deployment["entrypoint"] for deployment in SPEC}


def test_a_run_that_is_due_is_counted_where_it_waits(api):
    deployment = next(d for d in deployments(api).values() if d["work_queue_name"] == "cpu.pipeline")
    body = {"parameters": {"data": "/data"}, "enforce_parameter_schema": False}
    url = f"{api}/deployments/{deployment['id']}/create_flow_run"
    httpx.post(url, json=body).raise_for_status()
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    httpx.post(url, json=body | {"state": later}).raise_for_status()
    with asking(api) as call:
        counts = {count.queue: (count.waiting, count.running) for count in queue_counts(call)}
    assert counts.pop("cpu.pipeline") == (1, 0)
    assert set(counts.values()) == {(0, 0)}


def test_a_pool_of_another_type_is_refused(api):
    httpx.delete(f"{api}/work_pools/gpu").raise_for_status()
    httpx.post(f"{api}/work_pools/", json={"name": "gpu", "type": "process"}).raise_for_status()
    with pytest.raises(ConfigError, match="found work pool 'gpu' of type 'process', need 'gpu-process'"):
        apply()


def test_a_server_that_is_gone_is_named():
    url = f"http://127.0.0.1:{free_port()}/api"
    with pytest.raises(ServiceError, match=rf"no answer from {url}"):
        ask(url, ("GET", "/health", None))


def test_on_a_server_of_old_names_only_the_deployments_of_the_yard_keep_theirs():
    entrypoint = "flows.classification.classification"
    ours = {"entrypoint": entrypoint, "name": "build-classifier"}
    nightly = {"entrypoint": entrypoint, "name": "nightly"}  # a person's, of the same flow
    old = {(entrypoint, "yard")}
    assert [_as_called(made, old)["name"] for made in (ours, nightly)] == ["yard", "nightly"]
    assert _as_called(ours, {(entrypoint, "yard"), (entrypoint, "build-classifier")}) == ours
    assert _as_called(ours, set()) == ours
