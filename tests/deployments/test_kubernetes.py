"""The base job template of Kubernetes, rendered by Prefect; and what `--on kubernetes` asks for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from prefect.workers.base import BaseJobConfiguration

from deployments.kubernetes import base_job_template, pool_deployments
from gpu_pools.kubernetes import pod_variables
from tasks.base.errors import ConfigError
from tests.gpu_pools.fake_prefect import fake_prefect
from tests.runners import ROOT, output_of

UV = Path(sys.executable).parent / "uv"


class Rendered(BaseJobConfiguration):
    """What Prefect's worker renders beside what every worker has."""

    namespace: str
    job_manifest: dict[str, Any]


async def render(**values: Any) -> dict[str, Any]:
    found = await Rendered.from_template_and_values(base_job_template(), {"name": "run", **values})
    return found.job_manifest


@pytest.fixture(scope="module")
def manifest():
    with fake_prefect():  # Prefect looks for a server, though nothing is asked of it
        yield lambda **values: anyio.run(lambda: render(**values))


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]


def test_a_run_gets_what_its_job_variables_ask_for(manifest):
    made = manifest(gpus=2, cpus=8, memory="64G", seconds=18300, claim="data", home="/nfs/yard", volume_path="/nfs")
    (container,) = pod(made)["containers"]
    assert container["resources"] == {
        "requests": {"cpu": 8, "memory": "64G"},
        "limits": {"memory": "64G", "nvidia.com/gpu": 2},
    }
    assert made["spec"]["activeDeadlineSeconds"] == 18300
    assert {"name": "TRAINYARD_HOME", "value": "/nfs/yard"} in container["env"]
    assert container["volumeMounts"][0] == {"name": "yard", "mountPath": "/nfs"}
    assert pod(made)["volumes"][0]["persistentVolumeClaim"] == {"claimName": "data"}


def test_a_pod_that_dies_is_started_again_and_has_time_to_save_its_state(manifest):
    made = manifest()
    assert made["spec"]["backoffLimit"] == 3
    assert pod(made)["restartPolicy"] == "Never"
    assert pod(made)["terminationGracePeriodSeconds"] == 120
    assert made["spec"]["podFailurePolicy"]["rules"][0]["action"] == "Ignore"


def test_no_secret_stands_in_the_manifest(manifest):
    (container,) = pod(manifest())["containers"]
    secret = [variable for variable in container["env"] if "PASSWORD" in variable["name"]]
    assert secret
    assert all("value" not in variable for variable in secret)


def test_every_placeholder_has_a_variable(manifest):
    assert "{{" not in json.dumps(manifest(command="x", labels={}, env={}, cluster_config=None))


@pytest.mark.parametrize("wrong", [{"gpus": -1}, {"memory": "lots"}, {"home": "relative"}, {"retries": 0}])
def test_a_wrong_job_variable_is_refused_by_the_pools_schema(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, base_job_template()["variables"])


def test_defaults_of_the_template_can_be_set_and_no_others():
    made = base_job_template(image="lab/yard:1", claim=None)
    assert made["variables"]["properties"]["image"]["default"] == "lab/yard:1"
    assert made["variables"]["properties"]["claim"]["default"] == "trainyard"
    with pytest.raises(ConfigError, match="picture"):
        base_job_template(picture="x")


def test_the_flows_that_compute_are_deployed_in_the_pool():
    made = {deployment["entrypoint"]: deployment["work_pool"] for deployment in pool_deployments()}
    training = made["flows.classification.train_classifier"]
    assert training == {
        "name": "kubernetes",
        "job_variables": {"gpus": 1, "cpus": 4, "memory": "16G", "seconds": 5 * 3600 + 300},
    }
    assert made["flows.classification.prepare_dataset"]["job_variables"]["gpus"] == 0
    assert "flows.classification.classification" not in made
    assert "flows.housekeeping.housekeeping" not in made
    schema = base_job_template()["variables"]
    for pool in made.values():
        jsonschema.validate(pool["job_variables"], schema)


def test_a_limit_of_time_is_one_in_seconds():
    assert pod_variables({"time_limit": "90s", "memory": None, "priority": 2}, 3) == {"gpus": 3, "seconds": 390}
    assert pod_variables({}, 0) == {"gpus": 0}


@pytest.mark.long
def test_prefects_own_worker_renders_what_kubernetes_knows(tmp_path):
    # Without the Prefect that it asks for: the yard's own is to render.
    wanted = ("prefect-kubernetes==0.8.0", "kubernetes-asyncio", "tenacity", "kopf", "iso8601", "python-json-logger")
    subprocess.run([UV, "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, *wanted], check=True)
    paths = f"{ROOT}:{tmp_path}"
    values = json.dumps({"gpus": 2, "cpus": 8, "memory": "64G", "seconds": 600, "env": {"OMP_NUM_THREADS": "4"}})
    said, _ = output_of([sys.executable, "-m", "tests.kubernetes_pod", values], PYTHONPATH=paths)
    found = json.loads(said.splitlines()[-1])
    made = found["manifest"]
    # Prefect wants these two in the pod, too; Kubernetes passes over them.
    assert set(found["faults"]) <= {
        ".spec.template.spec.parallelism is unknown",
        ".spec.template.spec.completions is unknown",
    }
    environment = {variable["name"]: variable.get("value") for variable in pod(made)["containers"][0]["env"]}
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["TRAINYARD_HOME"] == "/yard/home"
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"
    assert pod(made)["containers"][0]["args"][-3:] == ["prefect", "flow-run", "execute"]
