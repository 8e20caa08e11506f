"""What a shell completes where a command takes a run."""

from gpu_pools.names import short_id
from tasks.base.errors import TrainyardError

_MOST = 50


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    """Return names and ids of runs that begin so, the newest first, each with its state; none without a server."""
    from deployments.api import connect
    from deployments.runs.find import named_like

    try:
        with connect() as api:
            runs = named_like(api, incomplete, _MOST)
    except TrainyardError:  # the command itself says so
        return []
    names = {run["name"]: run["state_name"] for run in reversed(runs) if run["name"].startswith(incomplete)}
    ids = {short_id(run["id"]): f"{run['name']}, {run['state_name']}" for run in runs}
    return [*reversed(names.items()), *(each for each in ids.items() if incomplete and each[0].startswith(incomplete))]
