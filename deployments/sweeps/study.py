"""Holds the trials of a sweep in a journal of Optuna's: asks for values, tells what came of them."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from deployments.sweeps.objective import Objective
from deployments.sweeps.record import trim_journal
from deployments.sweeps.space import Choices, Range, Space, Value

JOURNAL = "study.journal"
State = Literal["running", "complete", "pruned", "failed"]

_STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_RUN, _NOTE, _STOPPING, _UNUSED = "run", "note", "stopping", "unused"


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial as it is now.

    Args:
        number: from 0 on.
        values: dotted name of each parameter -> its value.
        state: of the trial.
        value: of the metric; None: not known yet, or never.
        measured: the values of the metric that were told so far, in their order.
        run: id of the run in Prefect; empty: not known to be there.
        note: why it ended as it did.
        stopping: it is to be ended before its time, and why; empty: it is not.
    """

    number: int
    values: Mapping[str, Value]
    state: State
    value: float | None
    measured: tuple[float, ...]
    run: str
    note: str
    stopping: str


class _Held(JournalFileOpenLock):
    """No lock: who sweeps holds the sweep's own, which ends with the process; Optuna's would outlive it."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Study:
    """The trials of a sweep; one process at a time.

    Args:
        folder: of the sweep.
        space: what is searched.
        objective: what the trials are compared by.
        seed: of the sampler.
        prune_after: measurements after which a trial is first compared with others; 0: never.
    """

    def __init__(self, folder: Path, space: Space, objective: Objective, *, seed: int, prune_after: int) -> None:
        self._distributions = {name: _distribution(values) for name, values in space.items()}
        self._objective, self._seed = objective, seed
        path = str(folder / JOURNAL)
        trim_journal(folder / JOURNAL)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = optuna.pruners.SuccessiveHalvingPruner(prune_after) if prune_after else optuna.pruners.NopPruner()
        with quietly():
            self.optuna = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(path, _Held(path))),
                study_name="sweep",
                direction=objective.direction,
                pruner=pruner,
                load_if_exists=True,
            )
        for found in self._frozen((TrialState.RUNNING,)):
            if found.params.keys() != self._distributions.keys():  # killed while its values were chosen: nothing runs
                self._set(found.number, _UNUSED, "true")
                self.optuna.tell(found.number, state=TrialState.FAIL)

    def ask(self) -> Trial:
        """Return a new trial, its values chosen by what is known of the others.

        Each has a sampler of its own, seeded by its number: a process that goes on would draw the first values again.
        """
        with quietly():
            number = len(self.optuna.get_trials(deepcopy=False))
            self.optuna.sampler = optuna.samplers.TPESampler(seed=self._seed + number, constant_liar=True)
            asked = self.optuna.ask(self._distributions)
        return self.trial(asked.number)

    def trial(self, number: int) -> Trial:
        """Return a trial as it is now."""
        found = self.optuna.get_trials(deepcopy=False)[number]
        return _trial(found)

    def trials(self) -> list[Trial]:
        """Return all trials in their order."""
        return [_trial(found) for found in self._frozen() if _UNUSED not in found.user_attrs]

    def living(self) -> list[Trial]:
        """Return the trials that have not ended."""
        return [trial for trial in self.trials() if trial.state == "running"]

    def best(self) -> Trial | None:
        """Return the best of the trials that are complete, the first of equals; None: there is none."""
        return best_of(self.trials(), self._objective)

    def has_run(self, number: int, run: str) -> None:
        """Keep which run of the yard a trial is."""
        self._set(number, _RUN, run)

    def is_stopping(self, number: int, why: str) -> None:
        """Keep that a trial is to be ended before its time."""
        self._set(number, _STOPPING, why)

    def report(self, number: int, measured: Sequence[float]) -> bool:
        """Tell the measurements of a living trial so far, in their order; return whether one of the new ones ends it.

        The rule is asked after each, as if they came one by one.
        """
        frozen = self.optuna.get_trials(deepcopy=False)[number]
        trial = optuna.trial.Trial(self.optuna, frozen._trial_id)
        for step in range(len(frozen.intermediate_values) + 1, len(measured) + 1):
            trial.report(measured[step - 1], step)
            if trial.should_prune():
                return True
        return False

    def complete(self, number: int, value: float) -> None:
        """End a trial with what it is worth."""
        self.optuna.tell(number, value)

    def prune(self, number: int, why: str) -> None:
        """End a trial that was ended before its time; its measurements count."""
        self._set(number, _NOTE, why)
        self.optuna.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        """End a trial that has no value."""
        self._set(number, _NOTE, why)
        self.optuna.tell(number, state=TrialState.FAIL)

    def _frozen(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states)

    def _set(self, number: int, key: str, value: str) -> None:
        frozen = self.optuna.get_trials(deepcopy=False)[number]
        optuna.trial.Trial(self.optuna, frozen._trial_id).set_user_attr(key, value)


def best_of(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """Return the best of the trials that are complete, the first of equals; None: there is none."""
    best: Trial | None = None
    for trial in trials:
        if trial.state != "complete" or trial.value is None:
            continue
        if best is None or best.value is None or objective.better(trial.value, best.value):
            best = trial
    return best


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of a sweep in their order, as its journal has them now; whoever conducts it is not disturbed.

    Args:
        folder: of the sweep; without a journal it has none.
    """
    path = folder / JOURNAL
    if not path.exists():
        return []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with quietly():
        storage = JournalStorage(JournalFileBackend(str(path), _Held(str(path))))
    found = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    return [_trial(trial) for trial in found if _UNUSED not in trial.user_attrs]


def _trial(found: FrozenTrial) -> Trial:
    attributes = found.user_attrs
    measured = tuple(value for _, value in sorted(found.intermediate_values.items()))
    value = found.value if found.state == TrialState.COMPLETE else None
    return Trial(
        found.number,
        dict(found.params),
        _STATES[found.state],
        value,
        measured,
        attributes.get(_RUN, ""),
        attributes.get(_NOTE, ""),
        attributes.get(_STOPPING, ""),
    )


def _distribution(values: Range | Choices) -> Any:
    if isinstance(values, Choices):
        return optuna.distributions.CategoricalDistribution(values.values)
    if values.whole:
        step = int(values.step or 1)
        return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log, step=step)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Optuna from saying that what is used here may change in a later version: the version is bounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
