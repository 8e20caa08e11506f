"""The flows that the yard knows, by name."""

from importlib import import_module
from typing import Any

from deployments.machine.environment import make_prefect_home
from gpu_pools import project_flows
from gpu_pools.worker.permitted import FLOWS, more_flows
from tasks.base.errors import ConfigError


def entrypoints() -> dict[str, str]:
    """Return flow name -> module.function, as prefect.yaml and TRAINYARD_FLOWS have them.

    Raises:
        ConfigError: TRAINYARD_FLOWS holds what is no flow, or a name that is taken.
    """
    return project_flows.entrypoints() | more_flows()


def entrypoint_of(name: str) -> str:
    """Return module.function of the flow called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    known = entrypoints()
    if name not in known:
        raise ConfigError(f"found no flow {name!r}, have: {', '.join(sorted(known))}")
    return known[name]


def descriptions() -> dict[str, str]:
    """Return flow name -> what it does, in a line, in the order of prefect.yaml.

    Raises:
        ConfigError: as `entrypoints`.
    """
    own = {name: f"{entrypoint}, of {FLOWS}" for name, entrypoint in more_flows().items()}
    return project_flows.descriptions() | own


def load_flow(name: str) -> Any:
    """Return the flow called `name`.

    Raises:
        ConfigError: there is none of that name, or one of TRAINYARD_FLOWS cannot be imported.
    """
    module, _, function = entrypoint_of(name).rpartition(".")
    make_prefect_home()
    from prefect import Flow

    flow = getattr(_module_of(module), function, None)
    if not isinstance(flow, Flow) or flow.name != name:
        raise ConfigError(f"found no flow called {name!r} in {module}, need @flow(name={name!r}) on a function {name}")
    return flow


def _module_of(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # the module is there, but something that it imports is missing
        raise ConfigError(
            f"found no module {name!r}, which {FLOWS} names: install its package here, or add its folder to PYTHONPATH"
        ) from exc
