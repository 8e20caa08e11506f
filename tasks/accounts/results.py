"""Reads from MLflow what came of runs: of each the metric by which people compare such runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType

from gpu_pools.prefect_pages import PAGE
from gpu_pools.sharing.usage import Pages, Use
from tasks.accounts.account import Result
from tasks.base.errors import TrackingError
from tasks.tracking import mlflow_api
from tasks.tracking.mlflow_names import FLOW_RUN

_PAGE = 500
_EARLY_S = 600.0  # the clock of another host may be that late
# The first pattern that any metric matches decides; of those that match it, the first by name.
_HEADLINES = (
    r"accuracy/test",
    r"map/test",
    r"map/best",
    r"named/test",
    r"recall/test_1",
    r"psnr/held_out",
    r"accuracy/snr",
    r"(test|eval|val|valid|validation)?[_./]?(accuracy|acc|map|auc|f1|psnr|iou|dice|score)[_./@]?.*",
    r".*(accuracy|psnr|f1|auc|map|iou).*",
    r"loss/(test|val)",
    r".*(test|eval|val).*loss.*",
    r".*loss.*",
)
_ASIDE = re.compile(r"(system|slot|foreign|progress|learning_rate|pictures|memory|speed)/.*")


def headline(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """Return the metric by which people compare such runs, and its value; None: there is none of that sort."""
    names = sorted(name for name in metrics if not _ASIDE.fullmatch(name))
    for pattern in _HEADLINES:
        for name in names:
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return name, metrics[name]
    return None


def read_results(since: float) -> dict[str, Result]:
    """Return what MLflow has of the runs that began there since then: id of the Prefect run -> its result.

    Of several MLflow runs of one Prefect run the newest that has a metric counts.

    Args:
        since: Unix seconds.

    Raises:
        TrackingError: MLflow does not answer.
    """
    found: dict[str, Result] = {}
    try:
        for run in _runs(mlflow_api.client(), since):
            key = run.data.tags.get(FLOW_RUN)
            if key and (key not in found or not found[key].metric):
                name, value = headline(run.data.metrics) or ("", None)
                found[key] = Result(name, value, run.info.run_id)
    except mlflow_api.TRANSIENT as exc:
        raise TrackingError(f"cannot read the results of runs from MLflow: {exc}") from exc
    return found


def _runs(store: MlflowClient, since: float) -> Iterator[Run]:
    """Yield the runs of all experiments, the newest first."""
    experiments = [experiment.experiment_id for experiment in _experiments(store)]
    token = None
    while experiments:
        page = store.search_runs(
            experiments,
            f"attributes.start_time >= {int(since * 1000)} AND tags.`{FLOW_RUN}` != ''",
            ViewType.ACTIVE_ONLY,
            _PAGE,
            ["attributes.start_time DESC"],
            token,
        )
        yield from page
        if not (token := page.token):
            return


def _experiments(store: MlflowClient) -> Iterator[Experiment]:
    token = None
    while True:
        page = store.search_experiments(max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def results_of(client: Pages, uses: Sequence[Use]) -> dict[str, Result]:
    """Return what MLflow has of runs: id of the run -> its result.

    A pipeline in a person's own process holds the slot of its stages; their results are its own.

    Args:
        client: of Prefect.
        uses: of devices.

    Raises:
        TrackingError: MLflow does not answer.
    """
    if not uses:
        return {}
    found = read_results(min(use.began for use in uses) - _EARLY_S)
    own = [use.run_id for use in uses if not use.deployment and use.run_id not in found]
    for start in range(0, len(own), PAGE):
        parents = {"parent_flow_run_id": {"any_": own[start : start + PAGE]}}
        for stage in client.pages("/flow_runs/filter", {"flow_runs": parents, "sort": "EXPECTED_START_TIME_ASC"}):
            if (result := found.get(stage["id"])) and (parent := _parent(stage)):
                found.setdefault(parent, result)
    return found


def _parent(stage: Mapping[str, Any]) -> str | None:
    """Return the run in whose folder a stage works."""
    return stage["parameters"].get("run")
