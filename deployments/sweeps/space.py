"""Reads what a sweep searches, and holds it against the parameters of the flow."""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deployments.runs.flow_parameters import Parameter
from tasks.base.config import override
from tasks.base.errors import ConfigError
from tasks.base.outside import PARAMETER_BYTES, parse_yaml, read_text

Value = bool | int | float | str | None

_KEYS = {"low", "high", "log", "step", "choices"}


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        log: spread evenly over the orders of magnitude.
        step: distance of neighbours, from `low` on; None: 1 for whole numbers, else any.
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several values."""

    values: tuple[Value, ...]


Space = Mapping[str, Range | Choices]
"""Name of a parameter, dotted -> the values that it may have."""


def read_space_file(path: Path) -> dict[str, Any]:
    """Return what a space file holds, not yet held against a flow.

    Raises:
        ConfigError: no plain file, not YAML, or no mapping with a parameter in it.
    """
    content = parse_yaml(read_text(path, ConfigError, PARAMETER_BYTES), ConfigError, str(path))
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"need a mapping of parameters such as train.learning_rate: {{low: 1e-5, high: 1e-2}}: {path}"
        )
    return {str(name): entry for name, entry in content.items()}


def parse_space(content: Mapping[str, Any], parameters: Sequence[Parameter]) -> Space:
    """Return the space that a file describes.

    Args:
        content: of the file.
        parameters: of the flow.

    Raises:
        ConfigError: the first entry that is wrong, by its parameter's name.
    """
    known = {parameter.name: parameter for parameter in parameters}
    space: dict[str, Range | Choices] = {}
    for name, entry in content.items():
        if name not in known or not known[name].kind:
            raise ConfigError(f"{name}: {_not_known(name, known)}")
        try:
            space[name] = _parse(entry, known[name])
        except ValueError as exc:
            raise ConfigError(f"{name}: {exc}") from exc
    return space


def _not_known(name: str, known: Mapping[str, Parameter]) -> str:
    if name in known:
        inside = [other for other in known if other.startswith(f"{name}.")]
        return f"found a group of parameters, need one of them: {', '.join(inside)}"
    close = get_close_matches(name, [other for other in known if known[other].kind], n=3)
    return "found a parameter that the flow does not have" + (f"; close to it: {', '.join(close)}" if close else "")


def _parse(entry: Any, parameter: Parameter) -> Range | Choices:
    if not isinstance(entry, dict) or not (entry.keys() <= _KEYS) or ("choices" in entry and len(entry) > 1):
        raise ValueError(f"found {entry!r}, need {{low: .., high: .., log: true, step: ..}} or {{choices: [..]}}")
    if "choices" in entry:
        return _choices(entry["choices"])
    return _range(entry, parameter)


def _choices(values: Any) -> Choices:
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"found the choices {values!r}, need a list of at least two")
    for value in values:
        if not isinstance(value, bool | int | float | str | None):
            raise ValueError(f"found the choice {value!r}, need a number, a word, true, false or null")
    if len({(type(value), value) for value in values}) < len(values):
        raise ValueError(f"found a choice twice in {values!r}")
    return Choices(tuple(map(_number_if_one, values)))


def _number_if_one(value: Value) -> Value:
    """Return the number that a text is: YAML 1.1 takes 1e-3 for text, because it has no dot."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _range(entry: Mapping[str, Any], parameter: Parameter) -> Range:
    kinds = set(parameter.kind.split(" | "))
    if not kinds & {"int", "float"}:
        raise ValueError(f"found low and high, need choices: it is {parameter.kind}")
    low, high = _bound(entry, "low"), _bound(entry, "high")
    log, whole = entry.get("log", False), "float" not in kinds
    step = _bound(entry, "step") if "step" in entry else None
    if not isinstance(log, bool):
        raise ValueError(f"found log: {log!r}, need true or false")
    if not low < high:
        raise ValueError(f"found low {low:g} and high {high:g}, need low below high")
    if log and (low <= 0 or step is not None):
        raise ValueError(
            f"found log: true with {'a step' if low > 0 else f'low {low:g}'}, need low above 0 and no step"
        )
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"found step {step:g}, need one above 0 and at most high - low = {high - low:g}")
    if whole and any(number != int(number) for number in (low, high, step or 1)):
        raise ValueError(f"found {dict(entry)!r}, need whole numbers")
    if step is not None:
        high = low + math.floor((high - low) / step + 1e-9) * step  # the last one of the row
    return Range(low, high, log, step, whole)


def _bound(entry: Mapping[str, Any], name: str) -> float:
    value = _number_if_one(entry.get(name))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"found {name}: {entry.get(name)!r}, need a number")
    return float(value)


def extremes(space: Space) -> Iterator[tuple[str, Value]]:
    """Yield the values of each parameter that are to be tried on the flow: the ends of a range, every choice."""
    for name, values in space.items():
        if isinstance(values, Choices):
            yield from ((name, value) for value in values.values)
        else:
            yield from ((name, int(end) if values.whole else end) for end in (values.low, values.high))


def with_values(parameters: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Return a copy of nested parameters with some of them, by dotted names, changed."""
    changed = copy.deepcopy(dict(parameters))
    override(changed, [f"{name}={json.dumps(value)}" for name, value in values.items()])
    return changed


def check_space(space: Space, flow: Any, parameters: Mapping[str, Any]) -> None:
    """Try the ends of each range, and each choice, on the flow's own models.

    Args:
        space: to be searched.
        flow: of Prefect.
        parameters: nested; what all trials share.

    Raises:
        ConfigError: the flow does not take a value, or a parameter is also given a fixed one; by the parameter's name.
    """
    from deployments.runs.local import check_parameters, for_flow

    for name in space:
        if (fixed := _at(parameters, name)) is not None:
            raise ConfigError(
                f"{name}: found {fixed!r} for all trials, and the parameter in the space; need one of them"
            )
    for name, value in extremes(space):
        try:
            check_parameters(flow, for_flow(flow, with_values(parameters, {name: value})))
        except ConfigError as exc:
            raise ConfigError(str(exc) if str(exc).startswith(f"{name}:") else f"{name}: {exc}") from exc


def _at(parameters: Mapping[str, Any], dotted: str) -> Any:
    place: Any = parameters
    for name in dotted.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    return place
