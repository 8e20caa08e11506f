"""Pins runs, so that housekeeping removes nothing of them."""

from deployments.api import Api, Json
from deployments.runs.find import RUNNING, WAITING
from deployments.runs.run_actions import ended, living
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


def runs_to_set(api: Api, pinned: bool, *, flow: str | None, owner: str | None) -> list[Json]:
    """Return the runs that are to be pinned, or let go, without those that are so already, and without stages.

    Args:
        api: of the server.
        pinned: whether they are to be.
        flow: its name; None: of any.
        owner: `anna`, `anna@boxa`, or `me`; None: of anybody.
    """
    alive = living(api, types=(*WAITING, *RUNNING), scheduled=True, flow=flow, owner=owner)
    return [run for run in (*alive, *ended(api, flow=flow, owner=owner)) if (PINNED in run["tags"]) != pinned]
