"""Names of the pool that Prefect's Kubernetes worker serves, and what its runs ask for."""

import math
from collections.abc import Mapping
from typing import Any

from gpu_pools.placement.queues import parse_duration

POOL = "kubernetes"
"""The work pool, the name of its deployments, and what `--on` takes."""

POOL_TYPE = "kubernetes"

FIELDS = ("cpus", "memory")
"""The job variables that people set for a run and its stages; GPUs and time come from its parameters and its limit."""

_ROOM_S = 300.0  # beyond a run's time limit: to fetch the image, and to save its state at the end


def pod_variables(variables: Mapping[str, Any], n_gpus: int) -> dict[str, Any]:
    """Return the job variables of a run in the pool, as its base job template has them.

    Args:
        variables: as the yard's own pool has them: cpus, memory, time_limit.
        n_gpus: that the run computes on; 0: on the CPU.

    Raises:
        ConfigError: time_limit is no duration.
    """
    found: dict[str, Any] = {name: variables[name] for name in ("cpus", "memory") if variables.get(name) is not None}
    if limit := variables.get("time_limit"):
        found["seconds"] = math.ceil(parse_duration(limit) + _ROOM_S)
    return {**found, "gpus": n_gpus}


def deployment_name(flow: str) -> str:
    """Return the full name of a flow's deployment in the pool."""
    return f"{flow}/{POOL}"
