"""Base of every parameter model."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Params(BaseModel):
    """Frozen and closed: a misspelt key fails at once, with its name, not after an hour."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Seed = Annotated[int, Field(ge=0, lt=2**32, description="Same seed, same data, same result on the CPU")]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _none_text(value: object) -> object:
    """Take YAML's stray words for "no value" as None."""
    return None if isinstance(value, str) and value.strip().lower() in {"", "none", "null"} else value


NoneText = BeforeValidator(_none_text)
