"""What the deployments of the project's flows are called on Prefect's server."""

from functools import cache

import yaml

from tasks.base.project_files import project_file

OLD_NAME = "yard"
"""What every deployment was called before each was named after what it does."""


@cache
def new_names() -> dict[str, str]:
    """Return flow -> name of its deployment, as prefect.yaml has them."""
    deployments = yaml.safe_load(project_file("prefect.yaml").read_text())["deployments"]
    return {deployment["entrypoint"].rpartition(".")[2]: deployment["name"] for deployment in deployments}


def deployment_name(flow: str) -> str:
    """Return the name of a flow's deployment; a flow that prefect.yaml lacks has its own name there, with dashes."""
    return new_names().get(flow, flow.replace("_", "-"))


def full_names(flow: str) -> list[str]:
    """Return the FLOW/NAME under which the deployment of a flow may be found, the likelier first.

    The second is for a server whose deployments still have their old name, and for one that people made under it.
    """
    return [f"{flow}/{deployment_name(flow)}", f"{flow}/{OLD_NAME}"]
