"""Starts, reads and ends the runs that the trials of a sweep are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deployments.api import Api, Json
from deployments.runs.find import children
from deployments.runs.flow_list import load_flow
from deployments.runs.local import check_parameters, for_flow
from deployments.runs.run_actions import cancel
from deployments.runs.submit import prepare, submit
from deployments.sweeps.edge import Figures, UnfitValuesError
from deployments.sweeps.record import Sweep
from deployments.sweeps.space import Value, with_values
from tasks.base.errors import ConfigError, TrackingError
from tasks.tracking.mlflow_api import TRANSIENT, client, is_hopeless
from tasks.tracking.mlflow_names import FLOW_RUN

PARENT = "mlflow.parentRunId"
"""The tag by which MLflow shows a run below another one."""

SWEEP, TRIAL = "sweep", "sweep.trial"
"""Tags of a trial's MLflow run: name of the sweep, number of the trial."""


class YardRuns:
    """The runs of a sweep in the yard.

    Args:
        api: of the server.
        sweep: whose trials they are.
        parent: returns the sweep's run in MLflow, None while MLflow was always away.
    """

    def __init__(self, api: Api, sweep: Sweep, parent: Callable[[], str | None]) -> None:
        self._api, self._sweep, self._parent = api, sweep, parent
        self._flow = load_flow(sweep.flow)
        self._nested: dict[str, list[str]] = {}  # Prefect run -> its MLflow runs

    def start(self, number: int, values: Mapping[str, Value]) -> str:
        """See `TrialRuns`."""
        parameters = with_values(self._sweep.parameters, values)
        try:
            check_parameters(self._flow, for_flow(self._flow, with_values(parameters, {})))
        except ConfigError as exc:
            raise UnfitValuesError(str(exc)) from exc
        order = prepare(self._api, self._sweep.flow, parameters, self._sweep.wishes(number))
        return str(submit(self._api, order, key=self._key(number))["id"])

    def _key(self, number: int) -> str:
        return f"sweep-{self._sweep.uid}-{number}"

    def found(self, number: int) -> str:
        """Return the run of a trial whose process was killed before it could note it; empty: there is none."""
        wanted = {"flow_runs": {"idempotency_key": {"any_": [self._key(number)]}}}
        runs: list[Json] = self._api.call("POST", "/flow_runs/filter", wanted)
        return str(runs[0]["id"]) if runs else ""

    def states(self, runs: Sequence[str]) -> Mapping[str, str]:
        """See `TrialRuns`."""
        found = self._api.pages("/flow_runs/filter", {"flow_runs": {"id": {"any_": list(runs)}}}) if runs else ()
        return {str(run["id"]): str(run["state_type"]) for run in found}

    def stop(self, run: str) -> None:
        """See `TrialRuns`."""
        cancel(self._api, self._api.call("GET", f"/flow_runs/{run}"))

    def figures(self, number: int, run: str) -> Figures | None:
        """See `TrialRuns`.

        Raises:
            TrackingError: MLflow will never answer this.
        """
        try:
            return self._figures(number, run)
        except TRANSIENT as exc:
            if is_hopeless(exc):
                raise TrackingError(f"cannot read the metrics of trial {number} from MLflow: {exc}") from exc
            return None

    def _figures(self, number: int, run: str) -> Figures:
        store = client()
        tracked = [store.get_run(found) for found in self._mlflow_runs(store, number, run)]
        if _all_over(tracked) and self._nested.pop(run, []):  # stages that began later have runs of their own
            tracked = [store.get_run(found) for found in self._mlflow_runs(store, number, run)]
        measures = [found for found in tracked if self._sweep.objective.metric in found.data.metrics]
        whole = _all_over(tracked)
        if not measures:
            return Figures((), whole)
        rows = store.get_metric_history(measures[0].info.run_id, self._sweep.objective.metric)
        return Figures(tuple(row.value for row in sorted(rows, key=lambda row: row.step)), whole)

    def _mlflow_runs(self, store: Any, number: int, run: str) -> list[str]:
        """Return the MLflow runs of a trial, also of the stages of a pipeline, each below that of the sweep."""
        known = self._nested.get(run, [])
        parent = self._parent()
        if known or parent is None:
            return known
        experiments = [found.experiment_id for found in store.search_experiments()]
        ids = [run, *(stage["id"] for stage in children(self._api, run))]
        found = [each for one in ids for each in store.search_runs(experiments, f"tags.`{FLOW_RUN}` = '{one}'")]
        for each in found:
            for key, value in ((PARENT, parent), (SWEEP, self._sweep.name), (TRIAL, str(number))):
                store.set_tag(each.info.run_id, key, value)
        names = [str(each.info.run_id) for each in found]
        if self._sweep.objective.metric in {key for each in found for key in each.data.metrics}:
            self._nested[run] = names
        return names


def _all_over(tracked: Sequence[Any]) -> bool:
    return bool(tracked) and all(found.info.status != "RUNNING" for found in tracked)
