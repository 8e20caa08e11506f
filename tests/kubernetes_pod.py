"""Renders the manifest of a run as Prefect's own Kubernetes worker does, and reads it as a client of Kubernetes.

`python -m tests.kubernetes_pod VALUES` with prefect-kubernetes on the path; VALUES: the job variables as JSON.
"""

import asyncio
import json
import sys
from typing import Any
from uuid import uuid4

from deployments.kubernetes import base_job_template
from tests.gpu_pools.fake_prefect import fake_prefect


def strange_keys(value: Any, kind: str, models: Any, place: str = "") -> list[str]:
    """Return the keys of a document that a model of Kubernetes does not have, or whose values are of another type."""
    if value is None:
        return []
    if kind.startswith("list["):
        ok = isinstance(value, list)
        each = [strange_keys(inner, kind[5:-1], models, f"{place}[{n}]") for n, inner in enumerate(value)] if ok else []
        return sum(each, []) if ok else [f"{place} is no list"]
    if kind.startswith("dict("):
        return [] if isinstance(value, dict) else [f"{place} is no map"]
    model = getattr(models, kind, None)
    if model is None:
        wanted = {"str": str, "int": int, "bool": bool}.get(kind, object)
        return [] if isinstance(value, wanted) else [f"{place} is {value!r}, need {kind}"]
    if not isinstance(value, dict):
        return [f"{place} is {value!r}, need {kind}"]
    names = {attribute: name for name, attribute in model.attribute_map.items()}
    faults = [f"{place}.{key} is unknown" for key in value if key not in names]
    return faults + [
        fault
        for key, inner in value.items()
        if key in names
        for fault in strange_keys(inner, model.openapi_types[names[key]], models, f"{place}.{key}")
    ]


async def manifest(values: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run with these job variables."""
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    config = await KubernetesWorkerJobConfiguration.from_template_and_values(base_job_template(), values)
    config.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="anna's run 1"))
    return dict(config.job_manifest)


def main() -> None:
    """Print the manifest, and what of it Kubernetes does not know."""
    from kubernetes_asyncio.client import models

    with fake_prefect():
        made = asyncio.run(manifest(json.loads(sys.argv[1])))
    print(json.dumps({"manifest": made, "faults": strange_keys(made, "V1Job", models)}))


if __name__ == "__main__":
    main()
