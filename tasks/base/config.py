"""Reads files of parameters and applies overrides such as `a.b=c`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.base.errors import ConfigError
from tasks.base.outside import PARAMETER_BYTES, parse_yaml, read_text

# RFUAV's key -> where the classification flow takes it. Its users' files work as they are.
RFUAV_KEYS: dict[str, str] = {
    "train": "train.train_path",
    "val": "train.val_path",
    "valid": "train.val_path",
    "test": "train.test_path",
    "save_path": "train.save_path",
    "model": "train.model",
    "weights": "train.weight_path",
    "weight_path": "train.weight_path",
    "batch_size": "train.batch_size",
    "image_size": "train.image_size",
    "num_classes": "train.num_classes",
    "class_names": "train.class_names",
    "device": "train.device",
    "num_epochs": "train.num_epochs",
    "epochs": "train.num_epochs",
    "shuffle": "train.shuffle",
    "lr": "train.learning_rate",
    "learning_rate": "train.learning_rate",
    "optimizer": "train.optimizer",
    "pretrained": "train.pretrained",
    "task_id": "train.task_id",
    "description": "train.description",
}
SECTIONS = ("split", "augment", "train", "evaluate", "track")


def read_parameters(path: Path) -> dict[str, Any]:
    """Return the flow parameters in a YAML file: nested as the flow has them, or flat with RFUAV's keys.

    Raises:
        ConfigError: no plain file, not YAML, not a mapping, or both forms say the same thing.
    """
    content = parse_yaml(read_text(path, ConfigError, PARAMETER_BYTES), ConfigError, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"found a {type(content).__name__} in {path}, need a mapping of parameters")
    parameters: dict[str, Any] = {}
    for key, value in content.items():
        if key in RFUAV_KEYS and not (key in SECTIONS and isinstance(value, Mapping)):
            put(parameters, RFUAV_KEYS[key], _rfuav_value(str(key), value), f"{path}: {key}")
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                put(parameters, f"{key}.{name}", inner, f"{path}: {key}.{name}")
        else:
            put(parameters, str(key), value, f"{path}: {key}")
    return parameters


def _rfuav_value(key: str, value: Any) -> Any:
    if key == "optimizer" and isinstance(value, str):
        return value.lower()
    return value


def put(parameters: dict[str, Any], dotted: str, value: Any, source: str) -> None:
    """Set `a.b.c` in nested mappings.

    Raises:
        ConfigError: the same place was set before, or a value stands where a mapping is needed.
    """
    *parents, leaf = dotted.split(".")
    place = parameters
    for name in parents:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{source} sets {dotted}, but {name} is already {place!r}")
    if leaf in place:
        raise ConfigError(f"{source} sets {dotted} a second time: {place[leaf]!r}, then {value!r}")
    place[leaf] = value


def override(parameters: dict[str, Any], assignments: Sequence[str]) -> None:
    """Apply `train.num_epochs=3`; values are YAML, so numbers, lists and null mean what they look like.

    Raises:
        ConfigError: an assignment has no `=`, or its value is not YAML.
    """
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"found {assignment!r}, need NAME=VALUE such as train.num_epochs=3")
        value = parse_yaml(text, ConfigError, f"the value in {assignment!r}")
        if isinstance(value, str) and value == text.strip():  # otherwise it was quoted, and is meant as text
            value = _number(value)
        *parents, leaf = dotted.split(".")
        place = parameters
        for name in parents:
            inner = place.get(name)
            place[name] = inner if isinstance(inner, dict) else {}
            place = place[name]
        place[leaf] = value


def _number(text: str) -> float | str:
    # YAML 1.1 reads 1e-3 as text, because it has no dot; people mean the number.
    try:
        return float(text) if any(c.isdigit() for c in text) else text
    except ValueError:
        return text
