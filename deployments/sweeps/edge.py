"""Says what a sweep asks of the yard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.sweeps.space import Value
from tasks.base.errors import ConfigError


class UnfitValuesError(ConfigError):
    """The flow does not take the values of a trial together; says why."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What MLflow has of a trial.

    Args:
        measured: the values of the metric, in the order of their steps.
        whole: nothing more comes.
    """

    measured: tuple[float, ...] = ()
    whole: bool = False


class TrialRuns(Protocol):
    """The yard, as a sweep sees it."""

    def start(self, number: int, values: Mapping[str, Value]) -> str:
        """Put the run of a trial into its queue and return its id; asked again it is the same run.

        Raises:
            UnfitValuesError: the flow does not take the values together.
        """

    def states(self, runs: Sequence[str]) -> Mapping[str, str]:
        """Return the type of state of each run that there is."""

    def figures(self, number: int, run: str) -> Figures | None:
        """Return what MLflow has of a trial; None: it does not answer."""

    def stop(self, run: str) -> None:
        """Ask for the end of a run."""
