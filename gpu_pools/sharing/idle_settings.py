"""Settings of idle slots: after how long they are reported, and given back."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from gpu_pools.placement.queues import Kind
from gpu_pools.sharing.durations import seconds_of
from tasks.base.params import Params


def _period(value: object) -> object:
    """Return seconds for a duration as people write it; None for `never`."""
    return None if value == "never" else seconds_of(value)  # type: ignore[arg-type]  # refused where it is wrong


Period = Annotated[float | None, BeforeValidator(_period)]
"""Seconds, more than 0; None: never."""


class IdleRule(Params):
    """What becomes of a run that uses neither a CPU nor its GPU."""

    report: Annotated[Period, Field(description="Its owner is told after so long: 30m; never")] = 1800.0
    give_back: Annotated[Period, Field(description="It is ended so long after the report: 1h; never")] = None


class IdleSettings(Params):
    """The rules by kind of run; programs and shells in terminals are trainings."""

    training: IdleRule = IdleRule()
    inference: IdleRule = IdleRule()
    preparation: IdleRule = IdleRule()

    def of(self, kind: Kind) -> IdleRule | None:
        """Return the rule of a kind; None: such runs only wait, or are short."""
        found = {"training": self.training, "inference": self.inference, "preparation": self.preparation}
        return found.get(kind)
