"""The base class of every parameter model."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _in_order(schema: dict[str, Any]) -> None:
    """Number the fields: Prefect's form shows them so; the order in the schema does not survive PostgreSQL."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Params(BaseModel):
    """Frozen and closed: a misspelt key fails at once, with its name, not after an hour."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_in_order)


Seed = Annotated[int, Field(ge=0, lt=2**32, description="Same seed, same data, same result on the CPU")]
Owner = Annotated[str, Field(max_length=100, description="Whose run it is, as others read it: anna, anna@boxa")]
"""Asked for where a run has names; empty: nobody said so, as in Prefect's page."""

Device = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*/)?(cpu|cuda(:\d+)?)$",
        description="cpu, cuda (the least loaded GPU), cuda:0, cuda:1 ..., on several hosts boxb/cuda:0",
    ),
]
"""What a run computes on."""

Fraction = Annotated[float, Field(ge=0, le=1)]


def _none_text(value: object) -> object:
    """Take YAML's stray words for "no value" as None."""
    return None if isinstance(value, str) and value.strip().lower() in {"", "none", "null"} else value


NoneText = BeforeValidator(_none_text)
