"""Reads from the parameters of a run how many devices it needs at once."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tasks.base.errors import ConfigError

FIELD = "n_devices"
"""The field of a parameter model, beside `device`; a whole number from 1 on."""

_ANY_GPU = "cuda"


def device_count(parameters: Mapping[str, Any]) -> int:
    """Return how many devices a run needs at once: the most that any of its parameter models says, else 1.

    Args:
        parameters: of the run, as Prefect has them.
    """
    return max((n for _, _, n in _asked(parameters)), default=1)


def with_device_count(parameters: Mapping[str, Any], sections: Collection[str], n: int) -> dict[str, Any]:
    """Return parameters of a run that ask for n devices.

    Args:
        parameters: of the run, as Prefect has them.
        sections: of them, those that are models with such a field.
        n: at least 1.

    Raises:
        ConfigError: they name one device, and n is more than 1.
    """
    asked = {name: {**(parameters.get(name) or {}), FIELD: n} for name in sections}
    check_device_count(asked)
    return {**parameters, **asked}


def check_device_count(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that ask for several devices and name one.

    Raises:
        ConfigError: `train.device` is cuda:1 or cpu, and `train.n_devices` more than 1.
    """
    for name, section, n in _asked(parameters):
        device = section.get("device", _ANY_GPU)
        if n > 1 and isinstance(device, str) and device.rpartition("/")[2] != _ANY_GPU:
            raise ConfigError(f"found {name}.device={device} with {name}.{FIELD}={n}, need cuda, or HOST/cuda")


def _asked(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    for name, section in parameters.items():
        n = section.get(FIELD) if isinstance(section, Mapping) else None
        if isinstance(n, int) and not isinstance(n, bool) and n > 0:
            yield name, section, n
