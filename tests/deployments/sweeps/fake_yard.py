"""The smallest yard that a sweep can be tried on: its runs measure a curve, a step each time they are looked at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.sweeps.edge import Figures
from deployments.sweeps.objective import Objective
from deployments.sweeps.record import Sweep, Terms
from deployments.sweeps.space import Range, Value
from deployments.sweeps.study import Study
from deployments.sweeps.sweeping import Sweeper

SPACE = {"train.x": Range(0.0, 1.0, False, None, False)}
OBJECTIVE = Objective("loss/val", "minimize", True)


class KilledError(BaseException):
    """The process that sweeps dies here."""


@dataclass
class FakeRun:
    id: str
    values: Mapping[str, Value]
    n_seen: int = 0
    state: str = "RUNNING"


@dataclass
class FakeYard:
    """Each of its answers, and each thing it is asked to do, is a moment at which the asking process may die.

    Args:
        curve: parameter and step, from 1 on -> value.
        n_steps: after which a run is COMPLETED.
        die_at: the number of the moment; 0: never.
    """

    curve: Callable[[float, int], float] = lambda x, step: x + 1 / step
    n_steps: int = 6
    die_at: int = 0
    moments: int = 0
    most_at_once: int = 0
    runs: dict[int, FakeRun] = field(default_factory=dict)

    def start(self, number: int, values: Mapping[str, Value]) -> str:
        self._moment()
        run = self.runs.setdefault(number, FakeRun(f"run-{number}", dict(values)))
        assert run.values == values
        self.most_at_once = max(self.most_at_once, sum(each.state == "RUNNING" for each in self.runs.values()))
        self._moment()
        return run.id

    def states(self, runs: Sequence[str]) -> Mapping[str, str]:
        self._moment()
        return {run.id: run.state for run in self.runs.values() if run.id in runs}

    def figures(self, number: int, run: str) -> Figures | None:
        self._moment()
        found = self.runs[number]
        if found.state == "RUNNING":
            found.n_seen += 1
            found.state = "COMPLETED" if found.n_seen == self.n_steps else "RUNNING"
        x = found.values["train.x"]
        assert isinstance(x, float)
        return Figures(tuple(self.curve(x, step) for step in range(1, found.n_seen + 1)), found.state != "RUNNING")

    def stop(self, run: str) -> None:
        self._moment()
        (found,) = [each for each in self.runs.values() if each.id == run]
        found.state = "CANCELLED"
        self._moment()

    def _moment(self) -> None:
        self.moments += 1
        if self.moments == self.die_at:
            raise KilledError


def sweep_of(n_trials: int, n_parallel: int, prune_after: int = 2) -> Sweep:
    space = {"train.x": {"low": 0, "high": 1}}
    asked = ("toy", "uid", "classification", {"data": "/data"}, space, OBJECTIVE, "toys")
    return Sweep(*asked, Terms(n_trials, n_parallel, 0, prune_after, None, None, None), "anna@boxa")


def study_of(folder: Path, sweep: Sweep) -> Study:
    return Study(folder, SPACE, OBJECTIVE, seed=sweep.terms.seed, prune_after=sweep.terms.prune_after)


def sweep_all(folder: Path, sweep: Sweep, yard: FakeYard) -> tuple[Study, list[str]]:
    """Go on with a sweep to its end, as a new process does; return its study and what was said."""
    said: list[str] = []
    study = study_of(folder, sweep)
    sweeper = Sweeper(sweep, study, yard, said.append)
    while sweeper.turn():
        pass
    return study, said
