"""Goes on with a sweep, turn by turn: reads what its trials have reached, ends some, starts others."""

import time
from collections.abc import Callable

from deployments.runs.find import ENDED
from deployments.stack.stack import ServiceError
from deployments.sweeps.edge import Figures, TrialRuns, UnfitValuesError
from deployments.sweeps.record import Sweep, as_text
from deployments.sweeps.study import Study, Trial

_LATE_S = 120.0
"""Metrics of a run that has completed are waited for so long: its process sends the last ones as it ends."""


class Sweeper:
    """Moves the trials of a sweep on.

    All that it knows is in the study and in the yard, so that another process goes on where this one ends.

    Args:
        sweep: what was asked for.
        study: its trials.
        runs: the yard.
        say: is given a line about what happened.
    """

    def __init__(self, sweep: Sweep, study: Study, runs: TrialRuns, say: Callable[[str], None]) -> None:
        self._sweep, self._study, self._runs, self._say = sweep, study, runs, say
        self._away = self._yard_away = self._answered = False
        self._ended_at: dict[int, float] = {}

    def turn(self) -> bool:
        """Look at each living trial, start those for which there is room; return whether any is left to look at.

        A yard that stops answering is waited for: a sweep lasts for days, and a server is restarted now and then.

        Raises:
            ServiceError: the yard has never answered.
        """
        try:
            going = self._turn()
        except ServiceError as exc:
            if not self._answered:
                raise
            if not self._yard_away:
                self._say(f"the sweep waits, its runs go on: {exc}")
            self._yard_away = True
            return True
        self._answered, self._yard_away = True, False
        return going

    def _turn(self) -> bool:
        for trial in self._study.living():
            if not trial.run:  # killed between the two: the same run is found, or it is started now
                self._start(trial)
        living = self._study.living()
        states = self._runs.states([trial.run for trial in living])
        for trial in living:
            self._look(trial, states.get(trial.run))
        terms = self._sweep.terms
        while len(self._study.living()) < terms.n_parallel and len(self._study.trials()) < terms.n_trials:
            self._start(self._study.ask())
        return bool(self._study.living())

    def _start(self, trial: Trial) -> None:
        try:
            run = self._runs.start(trial.number, trial.values)
        except UnfitValuesError as exc:
            self._fail(trial, str(exc))
            return
        self._study.has_run(trial.number, run)
        self._say(f"trial {trial.number} is run {run}: {as_text(trial.values)}")

    def _look(self, trial: Trial, state: str | None) -> None:
        figures = self._runs.figures(trial.number, trial.run)
        self._tell_away(figures is None)
        if figures is None:
            return
        ended = state is None or state in ENDED
        wants_end = not trial.stopping and self._study.report(trial.number, figures.measured)
        if wants_end and not ended:
            self._stop(trial)
        elif ended:
            self._end(trial, state, figures)
        elif trial.stopping and state != "CANCELLING":  # killed before it could ask for the end
            self._runs.stop(trial.run)

    def _stop(self, trial: Trial) -> None:
        judged = self._study.trial(trial.number).measured  # up to the one at which it was behind
        n, last = len(judged), judged[-1]
        why = f"ended early: {self._sweep.objective.metric} was {last:.4g} at its measurement {n}, behind the others"
        self._study.is_stopping(trial.number, why)
        self._runs.stop(trial.run)
        self._say(f"trial {trial.number} is {why}")

    def _end(self, trial: Trial, state: str | None, figures: Figures) -> None:
        """Tell what came of a trial whose run has ended."""
        value = self._sweep.objective.value(list(figures.measured))
        if state == "COMPLETED":
            since = self._ended_at.setdefault(trial.number, time.monotonic())
            if not (figures.whole and value is not None) and time.monotonic() - since < _LATE_S:
                return
            if value is None:
                self._fail(trial, f"its run has no {self._sweep.objective.metric} in MLflow")
            else:
                self._complete(trial, value)
        elif trial.stopping:
            self._study.prune(trial.number, trial.stopping)
        else:
            self._fail(trial, "its run was deleted" if state is None else f"its run is {state.lower()}")

    def _complete(self, trial: Trial, value: float) -> None:
        self._study.complete(trial.number, value)
        best = self._study.best()
        note = ", the best so far" if best is not None and best.number == trial.number else ""
        self._say(f"trial {trial.number} is complete: {self._sweep.objective.metric} {value:.4g}{note}")

    def _fail(self, trial: Trial, why: str) -> None:
        self._study.fail(trial.number, why)
        self._say(f"trial {trial.number} failed: {why}")

    def _tell_away(self, away: bool) -> None:
        if away and not self._away:
            self._say("MLflow does not answer; the sweep waits for it, its runs go on")
        self._away = away
