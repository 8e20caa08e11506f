"""Settings of fair share and of quotas: what counts of what people had, and what each may have."""

from typing import Annotated

from pydantic import Field, field_validator

from gpu_pools.placement.queues import parse_duration
from gpu_pools.sharing.durations import seconds_of
from tasks.base.params import Params

_LEAST_S, _MOST_S = 3600.0, 14 * 86400.0  # uses of five weeks are at hand, of which a fifth is left then


class FairShareSettings(Params):
    """How what people had lately orders the runs of equal priority."""

    half_life: Annotated[str, Field(description="What was had so long ago counts half: 1h to 14d")] = "7d"

    @field_validator("half_life")
    @classmethod
    def _check_half_life(cls, text: str) -> str:
        if not _LEAST_S <= seconds_of(text) <= _MOST_S:
            raise ValueError(f"found {text!r}, need a duration from 1h to 14d")
        return text

    @property
    def half_life_s(self) -> float:
        """Return it in seconds."""
        return parse_duration(self.half_life)


class Quota(Params):
    """What somebody may have of GPUs; what is left out has no bound."""

    slots: Annotated[int | None, Field(ge=0, description="Of GPUs, at once")] = None
    gpu_hours: Annotated[float | None, Field(ge=0, allow_inf_nan=False, description="Within seven days")] = None


class QuotaSettings(Params):
    """What people and groups may have of GPUs; a run has to fit all that are its owner's."""

    each: Annotated[Quota, Field(description="Every person without one below owners")] = Quota()
    owners: Annotated[dict[str, Quota], Field(description="anna, of whatever host, or anna@boxa: the quota")] = {}
    groups: Annotated[dict[str, Quota], Field(description="Of all members together")] = {}
