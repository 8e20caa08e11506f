"""Checks that a run starts a flow of the yard, and sets only variables that it may set.

Whoever reaches Prefect's API can make deployments and runs there. The worker starts processes as the yard's user, so it
is the worker that looks at what they are to be.
"""

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from gpu_pools.project_flows import entrypoints, flow_of
from tasks.base.errors import ConfigError

FLOWS = "TRAINYARD_FLOWS"
"""More flows that the worker may start, MODULE.FUNCTION or MODULE.*, separated by commas; the former are deployed."""

VARIABLES = "TRAINYARD_RUN_VARIABLES"
"""More variables that a run may set, separated by commas."""

RUN_VARIABLES = frozenset(
    {
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
        *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_SHOW_CPP_STACKTRACES"),
        *("NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "PREFECT_LOGGING_LEVEL"),
    }
)
"""What a run may set: how fast and how talkative it is, never what code it loads, where it writes, or what it may."""

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def own_entrypoint(entrypoint: str | None) -> str:
    """Return the entrypoint of a deployment, if it is one of the yard's flows.

    Args:
        entrypoint: as Prefect has it; None: the run has no deployment, or that no flow.

    Raises:
        ConfigError: it is another one, or a file.
    """
    named = entrypoint or ""
    ours = named in entrypoints().values() or any(fnmatchcase(named, more) for more in _listed(FLOWS))
    if ours and _MODULE.fullmatch(named):
        return named
    raise ConfigError(
        f"found a deployment of {named or 'no flow'!r}, the worker starts the flows of prefect.yaml alone, by module: "
        f"deploy one of those, or add yours as MODULE.FUNCTION to {FLOWS} of the worker"
    )


def more_flows() -> dict[str, str]:
    """Return flow name -> MODULE.FUNCTION, for each that TRAINYARD_FLOWS names in full.

    Raises:
        ConfigError: it holds what is no module, or two flows of one name.
    """
    named: dict[str, str] = {}
    for entrypoint in sorted(_listed(FLOWS)):
        if "*" in entrypoint:
            continue
        if not _MODULE.fullmatch(entrypoint):
            raise ConfigError(f"found {entrypoint!r} in {FLOWS}, need MODULE.FUNCTION or MODULE.*")
        name = flow_of(entrypoint)
        if name in named or name in entrypoints():
            raise ConfigError(f"found a second flow {name!r} in {FLOWS}: {entrypoint}; give it a name of its own")
        named[name] = entrypoint
    return named


def run_environment(variables: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that the job variables of a run or a deployment set.

    Raises:
        ConfigError: `env` is no map of texts, or has a variable that runs may not set.
    """
    asked = variables.get("env") or {}
    if not isinstance(asked, Mapping):
        raise ConfigError(f"env: found {asked!r:.60}, need a map of variables, such as OMP_NUM_THREADS: 4")
    found = {str(name): str(value) for name, value in asked.items() if value is not None}
    if refused := sorted(found.keys() - RUN_VARIABLES - _listed(VARIABLES)):
        raise ConfigError(
            f"env: found {', '.join(refused)[:200]}, a run may set {', '.join(sorted(RUN_VARIABLES))}; "
            f"{VARIABLES} of the worker allows more"
        )
    if any("\0" in value for value in found.values()):
        raise ConfigError("env: found a value with a zero byte, need text")
    return found


def _listed(setting: str) -> set[str]:
    return {word.strip() for word in os.environ.get(setting, "").split(",") if word.strip()}
