"""What a flow asks for: each parameter with its type, bounds, default and meaning, as Prefect's form has them."""

import ast
import builtins
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from deployments.runs.flow_list import entrypoint_of, load_flow
from gpu_pools.device_count import FIELD
from tasks.base.errors import ConfigError

Schema = Mapping[str, Any]

_WORDS = {"integer": "int", "number": "float", "boolean": "bool", "string": "text", "object": "mapping"}
_BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "maxLength": "at most {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, or a group of them, which has no type of its own.

    Args:
        name: dotted, as `--set` takes it.
        kind: its type, or the words it may be; empty: a group.
        bounds: such as `>= 1, < 10`; empty: none.
        default: as `--set` takes it; None: there is none, or it is that of each parameter of the group.
        meaning: may be empty.
        choices: the words it may be; empty: it has another type.
    """

    name: str
    kind: str
    bounds: str
    default: str | None
    meaning: str
    choices: tuple[str, ...] = ()


def flow_parameters(flow_name: str) -> list[Parameter]:
    """Return the parameters of a flow in the order of its form, each group before what is in it.

    Raises:
        ConfigError: there is no such flow.
    """
    function = _outline(entrypoint_of(flow_name)) or load_flow(flow_name).fn
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    model: type[BaseModel] = create_model("Parameters", **fields)
    schema = model.model_json_schema()
    meanings = argument_meanings(inspect.getdoc(function) or "")
    return list(_walk(schema, schema.get("$defs", {}), "", {}, meanings))


def in_form_order(flow_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run in the order of its flow's form, which PostgreSQL does not keep.

    Args:
        flow_name: of a flow that is not ours they are in the order of the alphabet.
        parameters: as Prefect has them.
    """
    try:
        order = {parameter.name: place for place, parameter in enumerate(flow_parameters(flow_name))}
    except ConfigError:
        order = {}
    return _in_order(parameters, order, "")


def _in_order(parameters: Mapping[str, Any], order: Mapping[str, int], above: str) -> dict[str, Any]:
    names = sorted(parameters, key=lambda name: (order.get(above + name, len(order)), name))
    return {
        name: _in_order(value, order, f"{above}{name}.") if isinstance(value := parameters[name], Mapping) else value
        for name in names
    }


def parallel_sections(flow_name: str) -> list[str]:
    """Return the parameters of a flow that are models with a device and a number of devices.

    Raises:
        ConfigError: there is no such flow.
    """
    names = [parameter.name for parameter in flow_parameters(flow_name)]
    sections = [name.rpartition(".")[0] for name in names if name.endswith(f".{FIELD}")]
    return [section for section in sections if f"{section}.device" in names]


def _outline(entrypoint: str) -> Callable[..., Any] | None:
    """Return the function of a flow without its body; None where more than imported types is needed for that.

    The module is read, not imported: that would import Prefect, which takes over a second.
    """
    module, _, name = entrypoint.rpartition(".")
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # said by who imports it
        return None
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text())
    function = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
    if function is None:
        return None
    function.decorator_list, function.returns, function.body = [], None, function.body[:1]  # the docstring
    needed = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} - vars(builtins).keys()
    names = _imported(tree, needed)
    if needed - names.keys():
        return None
    exec(compile(ast.Module([function], []), spec.origin, "exec"), names)
    return typing.cast(Callable[..., Any], names[name])


def _imported(tree: ast.Module, needed: set[str]) -> dict[str, Any]:
    """Return those of the needed names that a module imports from others, as these have them."""
    return {
        alias.asname or alias.name: getattr(import_module(node.module), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if (alias.asname or alias.name) in needed
    }


def argument_meanings(docstring: str) -> dict[str, str]:
    """Return name -> text of the section `Args:`."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def _walk(
    schema: Schema, models: Mapping[str, Schema], prefix: str, defaults: Schema, meanings: Mapping[str, str]
) -> Iterator[Parameter]:
    """Yield the fields of a model.

    Args:
        schema: its JSON schema.
        models: name -> JSON schema of each model within.
        prefix: of the fields' names.
        defaults: of the fields, where they are not the model's own.
        meanings: name -> what a field means, where the schema does not say it.
    """
    for name, field in schema["properties"].items():
        default = defaults.get(name, field.get("default", ...))
        told = None if default is ... else _as_set(default)
        meaning = meanings.get(name) or field.get("description", "")
        inner = _model_of(field, models)
        if inner is None:
            yield Parameter(prefix + name, _kind(field), _bounds(field), told, meaning, _choices(field))
        else:
            meaning = meaning or inner.get("description", "").partition("\n\n")[0].replace("\n", " ")
            yield Parameter(prefix + name, "", "", told if default is None else None, meaning)
            yield from _walk(inner, models, f"{prefix}{name}.", default if isinstance(default, dict) else {}, {})


def _model_of(field: Schema, models: Mapping[str, Schema]) -> Schema | None:
    found = [models[part["$ref"].rpartition("/")[2]] for part in _sides(field) if "$ref" in part]
    return found[0] if found and "properties" in found[0] else None


def _sides(field: Schema) -> list[Schema]:
    """Return the types that a field may have."""
    return list(field.get("anyOf", [field]))


def _kind(field: Schema) -> str:
    return " | ".join(dict.fromkeys(_kind_of(side) for side in _sides(field)))


def _kind_of(side: Schema) -> str:
    if choices := _choices(side):
        return " | ".join(choices)
    if "prefixItems" in side:
        return f"[{', '.join(_kind(item) for item in side['prefixItems'])}]"
    if side.get("type") == "array":
        kind, bounds = _kind(side["items"]), _bounds(side["items"])
        return f"list of {f'({kind})' if ' | ' in kind else kind}" + (f" {bounds}" if bounds else "")
    if side.get("format") == "path":
        return "path"
    word: str = side["type"]
    return _WORDS.get(word, word)


def _bounds(field: Schema) -> str:
    found = [
        words.format(side[key])
        for side in _sides(field)
        for key, words in _BOUNDS.items()
        if key in side and not ("prefixItems" in side and key.endswith("Items"))
    ]
    return ", ".join(dict.fromkeys(found))


def _choices(field: Schema) -> tuple[str, ...]:
    words = [side.get("enum") or [side[key] for key in ("const",) if key in side] for side in _sides(field)]
    return tuple(_as_set(word) for side in words for word in side)


def _as_set(value: Any) -> str:
    """Return a value as `--set NAME=VALUE` takes it."""
    if isinstance(value, list):
        return f"[{', '.join(_as_set(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) and value else json.dumps(value)
