"""Brings the pool of Prefect's Kubernetes worker to the server, with a deployment of each flow that computes.

`python -m deployments.kubernetes --image IMAGE --claim CLAIM` does it; done twice it changes nothing.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from deployments.apply import SPEC, deploy
from gpu_pools.kubernetes import POOL, POOL_TYPE, pod_variables
from gpu_pools.placement.queues import parse_queue
from gpu_pools.project_flows import flow_of
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.servers.password import CLIENT, known_password

TEMPLATE = Path(__file__).with_name("lab") / "kubernetes" / "base-job-template.json"


def base_job_template(**defaults: str | None) -> dict[str, Any]:
    """Return the base job template, with the defaults of some of its variables; None: as it is.

    Raises:
        ConfigError: it has no such variable.
    """
    template: dict[str, Any] = json.loads(TEMPLATE.read_text())
    properties = template["variables"]["properties"]
    for name, value in defaults.items():
        if name not in properties:
            raise ConfigError(f"found {name!r}, need a variable of {TEMPLATE}: {', '.join(properties)}")
        if value is not None:
            properties[name]["default"] = value
    return template


def pool_deployments() -> list[dict[str, Any]]:
    """Return the deployments of the pool: those of prefect.yaml whose runs compute."""
    spec = yaml.safe_load(SPEC.read_text())
    return [_in_pool(made) for made in spec["deployments"] if _computes(made)]


def _computes(made: dict[str, Any]) -> bool:
    return parse_queue(made["work_pool"]["work_queue_name"]).kind not in ("pipeline", "housekeeping")


def _in_pool(made: dict[str, Any]) -> dict[str, Any]:
    queue = parse_queue(made["work_pool"]["work_queue_name"])
    asked = made["work_pool"].get("job_variables", {})
    variables = pod_variables(asked, 0 if queue.device == "cpu" else 1)
    kept = {name: value for name, value in made.items() if name != "schedules"}
    return {**kept, "name": POOL, "work_pool": {"name": POOL, "job_variables": variables}}


async def _apply(template: dict[str, Any]) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    made = pool_deployments()
    async with get_client() as client:
        try:
            pool = await client.read_work_pool(POOL)
            if pool.type != POOL_TYPE:
                raise ConfigError(f"found work pool {POOL!r} of type {pool.type!r}, need {POOL_TYPE!r}: delete it")
            await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type=POOL_TYPE, base_job_template=template))
        for deployment in made:
            await deploy(client, deployment, {"pull": []})
    return len(made)


def main() -> None:
    """Bring the server that PREFECT_API_URL names up to date."""
    import anyio

    from deployments.stack.stack import choose_api

    parser = argparse.ArgumentParser(description="Makes the pool for Prefect's Kubernetes worker, and its deployments.")
    parser.add_argument("--image", help="with the yard installed in it")
    parser.add_argument("--claim", help="PersistentVolumeClaim of the shared volume")
    parser.add_argument("--volume-path", dest="volume_path", help="where the volume is on all hosts and in pods")
    parser.add_argument("--home", help="TRAINYARD_HOME on the volume")
    parser.add_argument("--mlflow", help="address of MLflow as pods reach it")
    parser.add_argument("--namespace", help="of the pods")
    try:
        template = base_job_template(**vars(parser.parse_args()))
        choose_api()
        if known := known_password(os.environ.get("PREFECT_API_URL", "")):
            os.environ[CLIENT] = known
        print(f"work pool {POOL}: {anyio.run(_apply, template)} deployments, each FLOW/{POOL}")
        for name in sorted(flow_of(made["entrypoint"]) for made in pool_deployments()):
            print(f"  {name}")
    except TrainyardError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
