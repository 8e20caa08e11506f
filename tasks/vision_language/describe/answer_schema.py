"""Holds answers against a JSON schema, and tells a model what does not fit."""

import json
import re
from pathlib import Path
from typing import Any

from jsonschema import SchemaError
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from tasks.base.errors import ConfigError
from tasks.base.outside import PARAMETER_BYTES, read_json
from tasks.base.workspace import allowed_path

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(?P<inside>.*?)```", re.S | re.I)
_MOST_SAID = 300  # characters of what does not fit


class AnswerSchema:
    """A JSON schema that answers must fit.

    Args:
        schema: itself, or its file.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, schema: dict[str, Any] | Path) -> None:
        where = "ask.json_schema" if isinstance(schema, dict) else str(schema)
        self.schema = (
            schema if isinstance(schema, dict) else read_json(allowed_path(schema), ConfigError, PARAMETER_BYTES)
        )
        if not isinstance(self.schema, dict):
            raise ConfigError(f"found a {type(self.schema).__name__}, need a JSON schema: {where}")
        kind = validator_for(self.schema)
        try:
            kind.check_schema(self.schema)
        except SchemaError as exc:
            raise ConfigError(f"is no JSON schema ({_place(exc)}{exc.message[:_MOST_SAID]}): {where}") from exc
        # An empty registry: a $ref to another address would be fetched from there.
        self._validator = kind(self.schema, registry=Registry())

    def with_prompt(self, prompt: str) -> str:
        """Return a question that asks for an answer in this form."""
        return f"{prompt}\n\nAnswer with JSON alone, which fits this JSON schema:\n{json.dumps(self.schema)}"

    def check(self, text: str) -> tuple[Any, str | None]:
        """Return what an answer holds, or why it does not fit.

        Args:
            text: JSON, in a fenced block or not.

        Raises:
            ConfigError: the schema refers to what is not in it.
        """
        found = _FENCED.search(text)
        try:
            value = json.loads(found["inside"] if found else text, parse_constant=_refuse)
        except RecursionError:
            return None, "is nested too deeply"
        except ValueError as exc:
            return None, f"is not JSON: {exc}"
        try:
            fault = best_match(self._validator.iter_errors(value))
        except RecursionError:
            return None, "is nested too deeply"
        except Unresolvable as exc:
            raise ConfigError(f"found a $ref to {exc.ref!r} in ask.json_schema, need one to a part of it") from exc
        if fault is not None:
            return None, f"does not fit the schema: {_place(fault)}{fault.message[:_MOST_SAID]}"
        return value, None


def complaint(fault: str) -> str:
    """Return what a model is told whose answer does not fit."""
    return f"Your answer {fault}. Answer again, with JSON alone that fits the schema."


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _place(fault: Any) -> str:
    return f"at {fault.json_path}, " if fault.absolute_path else ""
