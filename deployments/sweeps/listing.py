"""Lists the sweeps of a home from their files, whoever conducts them."""

from dataclasses import dataclass
from typing import Literal

from deployments.sweeps.record import Sweep, has_ended, is_cancelled, lock_of, read_sweep, sweep_names
from deployments.sweeps.study import Trial, best_of, read_trials
from tasks.base.errors import ConfigError
from tasks.base.file_locks import is_held
from tasks.tracking.journal import read_card

State = Literal["running", "cut off", "ended", "cancelled"]


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A sweep as it is now.

    Args:
        name, flow, owner: of it.
        state: running: a process conducts it; cut off: none does, and `yard sweep --resume NAME` goes on.
        n_trials: that it is to have in all.
        begun, running, complete, pruned, failed: numbers of trials. Of a sweep that was cut off those count as running
            whose end nobody has seen.
        metric, direction: by which they are compared.
        best, best_trial: the best value so far, and whose it is; None: no trial is complete.
        began: Unix seconds.
        folder: with its files.
    """

    name: str
    flow: str
    owner: str
    state: State
    n_trials: int
    begun: int
    running: int
    complete: int
    pruned: int
    failed: int
    metric: str
    direction: str
    best: float | None
    best_trial: int | None
    began: float
    folder: str


def list_sweeps() -> tuple[list[SweepRow], list[str]]:
    """Return the sweeps of this home, the newest first, and a sentence on each that cannot be read."""
    rows, faults = [], []
    for name in sweep_names():
        try:
            rows.append(_row(read_sweep(name)))
        except ConfigError as exc:
            faults.append(str(exc))
    return sorted(rows, key=lambda row: -row.began), faults


def _row(sweep: Sweep) -> SweepRow:
    trials = _trials(sweep)
    states = [trial.state for trial in trials]
    best = best_of(trials, sweep.objective)
    return SweepRow(
        name=sweep.name,
        flow=sweep.flow,
        owner=sweep.owner,
        state=_state(sweep),
        n_trials=sweep.terms.n_trials,
        begun=len(trials),
        running=states.count("running"),
        complete=states.count("complete"),
        pruned=states.count("pruned"),
        failed=states.count("failed"),
        metric=sweep.objective.metric,
        direction=sweep.objective.direction,
        best=best.value if best else None,
        best_trial=best.number if best else None,
        began=_began(sweep),
        folder=str(sweep.folder),
    )


def _trials(sweep: Sweep) -> list[Trial]:
    """Return the trials that have their values: one that was killed while they were chosen is none."""
    try:
        trials = read_trials(sweep.folder)
    except (ValueError, KeyError) as exc:
        raise ConfigError(f"cannot read the journal of sweep {sweep.name}: {exc}") from exc
    return [trial for trial in trials if trial.values.keys() == sweep.space.keys()]


def _state(sweep: Sweep) -> State:
    if is_cancelled(sweep):
        return "cancelled"
    if is_held(lock_of(sweep)):
        return "running"
    return "ended" if has_ended(sweep) else "cut off"


def _began(sweep: Sweep) -> float:
    card = read_card(sweep.folder / "mlflow")
    return card.started_ms / 1000 if card else lock_of(sweep).stat().st_mtime
