"""What a run may make the worker start."""

from pathlib import Path

import pytest
import yaml

from gpu_pools.worker.permitted import RUN_VARIABLES, own_entrypoint, run_environment
from tasks.base.errors import ConfigError

OWN = [d["entrypoint"] for d in yaml.safe_load((Path(__file__).parents[3] / "prefect.yaml").read_text())["deployments"]]


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for name in ("TRAINYARD_FLOWS", "TRAINYARD_RUN_VARIABLES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("entrypoint", OWN)
def test_every_flow_of_the_yard_may_be_started(entrypoint):
    assert own_entrypoint(entrypoint) == entrypoint


@pytest.mark.parametrize(
    "entrypoint",
    [
        None,
        "",
        "/tmp/x.py:f",
        "flows/classification.py:classification",
        "flows.classification:classification",
        "os.system",
    ]
    + [
        "flows.stages.run_deployment",
        "flows.classification",
        "..flows.classification.classification",
        "x.flows.inference.predict",
    ],
)
def test_anything_else_is_refused_by_name(entrypoint):
    with pytest.raises(ConfigError, match="the worker starts the flows of prefect.yaml alone"):
        own_entrypoint(entrypoint)


def test_the_setting_adds_flows_by_module_and_no_files(monkeypatch):
    monkeypatch.setenv("TRAINYARD_FLOWS", "lab.flows.count, lab.more.*,/tmp/*")
    assert own_entrypoint("lab.flows.count") == "lab.flows.count"
    assert own_entrypoint("lab.more.anything") == "lab.more.anything"
    for other in ("lab.flows.other", "/tmp/x.py:f", "lab.more.py:f"):
        with pytest.raises(ConfigError, match="TRAINYARD_FLOWS"):
            own_entrypoint(other)


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PATH",
        "HOME",
        "CUDA_VISIBLE_DEVICES",
        "BASH_ENV",
        "",
    ]
    + [
        "TRAINYARD_ALLOWED_ROOTS",
        "TRAINYARD_HOME",
        "PREFECT_API_URL",
        "PREFECT__FLOW_ENTRYPOINT",
        "MLFLOW_TRACKING_URI",
    ],
)
def test_a_variable_that_is_not_on_the_list_is_refused(name):
    with pytest.raises(ConfigError, match=f"env: found {name}, a run may set"):
        run_environment({"env": {name: "x"}})


def test_what_is_on_the_list_is_text_and_empty_fields_of_the_form_are_nothing():
    assert run_environment({"env": {"OMP_NUM_THREADS": 4, "LD_PRELOAD": None}}) == {"OMP_NUM_THREADS": "4"}
    assert run_environment({}) == run_environment({"env": None}) == {}


def test_the_setting_adds_variables(monkeypatch):
    monkeypatch.setenv("TRAINYARD_RUN_VARIABLES", "WANDB_MODE")
    assert run_environment({"env": {"WANDB_MODE": "offline"}}) == {"WANDB_MODE": "offline"}


@pytest.mark.parametrize("env", ["LD_PRELOAD=x", ["LD_PRELOAD"], {"OMP_NUM_THREADS": "4\0"}])
def test_what_is_no_map_of_texts_is_refused(env):
    with pytest.raises(ConfigError, match="env: found"):
        run_environment({"env": env})


def test_no_variable_on_the_list_decides_on_code_or_reach():
    assert not [name for name in RUN_VARIABLES if "PATH" in name or name.startswith(("LD_", "PYTHON", "TRAINYARD_"))]
