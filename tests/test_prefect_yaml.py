"""The file of deployments says what can be deployed."""

import inspect
import json
import re
import typing
from importlib import import_module
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule

from tasks.base.params import Params

SPEC = yaml.safe_load((Path(__file__).parents[1] / "prefect.yaml").read_text())
DEPLOYMENTS = SPEC["deployments"]
QUEUES = {"cpu.preparation", "cpu.pipeline", "cpu.inference", "cpu.housekeeping", "cuda.training", "cuda.inference"}
# What a person must give; the rest are paths.
REQUIRED = {
    "crop": {"width": 1, "height": 1},
    "ask": {"model": "/model", "prompt": "What is it?"},
    "share": {"run": "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "meeting": "0" * 32},
}
each = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"].rpartition(".")[2])


def flow_of(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(import_module(module), name)


@each
def test_a_deployment_names_a_flow_of_a_module(deployment):
    flow = flow_of(deployment)
    assert isinstance(flow, Flow)
    assert flow.name == deployment["entrypoint"].rpartition(".")[2]
    assert deployment["description"]


@each
def test_parameters_are_those_of_the_flow(deployment):
    flow = flow_of(deployment)
    required = flow.parameters.required or []
    placeholders = {name: REQUIRED.get(name, "/data") for name in set(required) - set(deployment["parameters"])}
    flow.validate_parameters({**placeholders, **deployment["parameters"]})


@each
def test_parameters_survive_the_way_to_the_server_and_back(deployment):
    flow = flow_of(deployment)
    hints = typing.get_type_hints(flow.fn)
    defaults = {n: p.default for n, p in inspect.signature(flow.fn).parameters.items() if isinstance(p.default, Params)}
    for name, default in defaults.items():
        assert hints[name].model_validate(json.loads(default.model_dump_json())) == default


@each
def test_a_deployment_waits_in_a_queue_of_the_pool(deployment):
    assert deployment["work_pool"]["name"] == "gpu"
    assert deployment["work_pool"]["work_queue_name"] in QUEUES


@each
def test_a_schedule_can_be_named_and_is_switched_off_but_for_housekeeping_and_the_report(deployment):
    for schedule in deployment.get("schedules", []):
        assert schedule["slug"]
        assert schedule["active"] is (deployment["name"] in {"housekeeping", "daily-report"})
        assert ZoneInfo(schedule["timezone"])
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


@each
def test_a_deployment_names_no_folder(deployment):
    assert "pull" not in deployment
    assert SPEC["pull"] == []  # without it, Prefect writes down the folder in which `yard up` was called


def test_every_deployment_has_the_time_limit_of_its_kind():
    """Pipelines wait; a served model and grading last as long as they are asked to."""
    own = {"render_parts": "5h", "report_classifier": "1h", "report_recognition": "1h", "export_splat": "1h"}
    own |= {name: None for name in ("serve", "snr_benchmark", "describe", "join_training")}
    kinds = {"preparation": "30m", "training": "5h", "inference": "300s", "pipeline": None, "housekeeping": "1h"}
    for deployment in DEPLOYMENTS:
        flow, pool = deployment["entrypoint"].rpartition(".")[2], deployment["work_pool"]
        expected = own.get(flow, kinds[pool["work_queue_name"].rpartition(".")[2]])
        assert pool.get("job_variables", {}).get("time_limit") == expected, flow


def test_names_are_unique():
    names = [(d["entrypoint"], d["name"]) for d in DEPLOYMENTS]
    assert len(set(names)) == len(names)


def test_every_flow_of_the_flows_is_deployed():
    flows = {
        f"flows.{path.stem}.{name}"
        for path in (Path(__file__).parents[1] / "flows").glob("*.py")
        for name, value in vars(import_module(f"flows.{path.stem}")).items()
        if isinstance(value, Flow)
    }
    in_a_terminal = {"flows.program.own_program", "flows.program.own_session"}  # as who typed it, never by a worker
    assert {d["entrypoint"] for d in DEPLOYMENTS} == flows - in_a_terminal


def test_it_is_for_the_prefect_that_is_installed():
    import prefect

    assert SPEC["prefect-version"] == prefect.__version__.split("+")[0]


def test_what_people_start_is_on_the_first_page_of_prefects_list():
    """The page lists deployments from A to Z, ten at a time."""
    ordered = sorted(deployment["name"] for deployment in DEPLOYMENTS)
    stages = [name for name in ordered if name.startswith("stage-")]
    assert ordered[ordered.index(stages[0]) :] == [*stages, "try-device"]
    assert {name for name in ordered if name.startswith(("apply-", "build-"))} <= {*ordered[:10]}
    assert {d["entrypoint"] for d in DEPLOYMENTS if d["name"] in stages} == {
        *(f"flows.classification.{name}" for name in ("prepare_dataset", "train_classifier", "report_classifier")),
        *(f"flows.splatting.{name}" for name in ("prepare_scene", "train_splat", "export_splat")),
        *(f"flows.recognition.{name}" for name in ("render_parts", "train_detector", "train_index")),
        "flows.recognition.report_recognition",
        "flows.joining.join_training",
    }


def test_the_table_in_the_docs_has_every_deployment():
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    names = {f"{d['entrypoint'].rpartition('.')[2]}/{d['name']}" for d in DEPLOYMENTS}
    listed = set(re.findall(r"^\| `(\w+/[a-z-]+)` \|", page, re.M))
    assert listed == {name for name in names if "/stage-" not in name}
