"""Settings of fair share: for how long counts what people had."""

from typing import Annotated

from pydantic import Field, field_validator

from gpu_pools.placement.queues import parse_duration
from tasks.base.errors import ConfigError
from tasks.base.params import Params

_LEAST_S, _MOST_S = 3600.0, 14 * 86400.0  # uses of five weeks are at hand, of which a fifth is left then


class FairShareSettings(Params):
    """How what people had lately orders the runs of equal priority."""

    half_life: Annotated[str, Field(description="What was had so long ago counts half: 1h to 14d")] = "7d"

    @field_validator("half_life")
    @classmethod
    def _check_half_life(cls, text: str) -> str:
        try:
            seconds = parse_duration(text)
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
        if not _LEAST_S <= seconds <= _MOST_S:
            raise ValueError(f"found {text!r}, need a duration from 1h to 14d")
        return text

    @property
    def half_life_s(self) -> float:
        """Return it in seconds."""
        return parse_duration(self.half_life)
