"""Writes the table of the trials of a sweep, and the best one as a file for `yard submit`."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from deployments.sweeps.record import Sweep
from deployments.sweeps.space import with_values
from deployments.sweeps.study import Trial
from tasks.base.workspace import write_atomic

TABLE, BEST = "trials.csv", "best.yaml"


def write_results(sweep: Sweep, trials: Sequence[Trial], best: Trial | None) -> list[Path]:
    """Write the table, and the best trial's parameters where there is one; return the files."""
    table = sweep.folder / TABLE
    write_atomic(table, trials_table(sweep, trials).encode())
    if best is None:
        return [table]
    write_atomic(sweep.folder / BEST, best_yaml(sweep, best).encode())
    return [table, sweep.folder / BEST]


def trials_table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """Return the trials as CSV, one a line: number, state, metric, number of measurements, run, values, note."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "state", sweep.objective.metric, "n_measured", "run", *sweep.space, "note"])
    for trial in trials:
        value = trial.value if trial.value is not None else ""
        values = [_plain(trial.values.get(name)) for name in sweep.space]
        writer.writerow([trial.number, trial.state, value, len(trial.measured), trial.run, *values, trial.note])
    return out.getvalue()


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else json.dumps(value)


def best_yaml(sweep: Sweep, best: Trial) -> str:
    """Return the parameters of the best trial, as `yard submit FLOW --file` takes them."""
    head = (
        f"# Trial {best.number} of sweep {sweep.name}, run {best.run}: {sweep.objective.metric} {best.value:.6g}\n"
        f"# yard submit {sweep.flow} --file {BEST}\n"
    )
    return head + yaml.safe_dump(with_values(sweep.parameters, best.values), sort_keys=False)
