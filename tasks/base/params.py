"""The base class of every parameter model."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _names(model: type[BaseModel]) -> list[str]:
    """Return the fields as the class's body has them; one that is inherited follows the one that it follows there."""
    names: list[str] = []
    for kind in model.__mro__:
        before = ""
        for name in kind.__dict__.get("__annotations__", {}):
            if name not in names:
                names.insert(names.index(before) + 1 if before in names else len(names), name)
            before = name
    return names


def _in_order(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Order the fields and number them: Prefect's form goes by the numbers, as PostgreSQL keeps no order."""
    fields = schema.get("properties", {})
    schema["properties"] = {name: fields[name] for name in _names(model) if name in fields}
    for position, field in enumerate(schema["properties"].values()):
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

MaybePath = Annotated[Path | None, NoneText]
MaybeText = Annotated[str | None, NoneText]
"""What may be left empty."""
