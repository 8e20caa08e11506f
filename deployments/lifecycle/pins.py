"""Pins runs, so that housekeeping removes nothing of them."""

from deployments.api import Api, Json
from gpu_pools.names import PINNED


def set_pinned(api: Api, run: Json, pinned: bool) -> Json:
    """Pin a run, or let it go, and return it; its stages are kept with it."""
    tags = sorted({*run["tags"], PINNED} if pinned else {*run["tags"]} - {PINNED})
    api.call("PATCH", f"/flow_runs/{run['id']}", {"tags": tags})
    return {**run, "tags": tags}


def pinned_runs(api: Api) -> list[Json]:
    """Return the runs that are pinned, the newest first."""
    wanted = {"flow_runs": {"tags": {"all_": [PINNED]}}, "sort": "EXPECTED_START_TIME_DESC"}
    return list(api.pages("/flow_runs/filter", wanted))
