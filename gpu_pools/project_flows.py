"""The flows of prefect.yaml: where each is, and what its deployment is called on Prefect's server."""

from functools import cache
from typing import Any

import yaml

from tasks.base.project_files import project_file

OLD_NAME = "yard"
"""What every deployment was called before each was named after what it does."""


@cache
def _deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(project_file("prefect.yaml").read_text())["deployments"]
    return found


def flow_of(entrypoint: str) -> str:
    """Return the name of the flow of a MODULE.FUNCTION: it is called like its function."""
    return entrypoint.rpartition(".")[2]


def entrypoints() -> dict[str, str]:
    """Return flow name -> MODULE.FUNCTION."""
    return {flow_of(made["entrypoint"]): made["entrypoint"] for made in _deployments()}


def descriptions() -> dict[str, str]:
    """Return flow name -> what it does, in a line, in the order of the file."""
    return {flow_of(made["entrypoint"]): made["description"] for made in _deployments()}


def deployment_names() -> dict[str, str]:
    """Return flow name -> name of its deployment."""
    return {flow_of(made["entrypoint"]): made["name"] for made in _deployments()}


def own_schedules(flow: str) -> set[str]:
    """Return the names of the schedules that prefect.yaml gives a flow."""
    made = next((made for made in _deployments() if flow_of(made["entrypoint"]) == flow), {})
    return {schedule["slug"] for schedule in made.get("schedules", [])}


def deployment_name(flow: str) -> str:
    """Return the name of the deployment of a flow; a flow that prefect.yaml lacks gives it its own, with dashes."""
    return deployment_names().get(flow, flow.replace("_", "-"))


def full_names(flow: str) -> list[str]:
    """Return the FLOW/NAME under which the deployment of a flow may be found, the likelier first.

    The second is for a server whose deployments still have their old name, and for one that people made under it.
    """
    return [f"{flow}/{deployment_name(flow)}", f"{flow}/{OLD_NAME}"]
