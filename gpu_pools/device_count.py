"""Reads from the parameters of a run how many devices it needs at once, and of how many hosts."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tasks.base.errors import ConfigError

FIELD = "n_devices"
"""The field of a parameter model, beside `device`; a whole number from 1 on."""

HOSTS_FIELD = "n_hosts"
"""The field beside it that says of how many hosts a run needs as many devices each; from 1 on."""

_ANY_GPU = "cuda"


def device_count(parameters: Mapping[str, Any]) -> int:
    """Return how many devices a run needs at once: the most that any of its parameter models says, else 1.

    Args:
        parameters: of the run, as Prefect has them.
    """
    return max((n for _, _, n in _asked(parameters)), default=1)


def host_count(parameters: Mapping[str, Any]) -> int:
    """Return of how many hosts a run needs its devices at once, of each as many as `device_count` says.

    Args:
        parameters: of the run, as Prefect has them.
    """
    return max((n for _, _, n in _asked(parameters, HOSTS_FIELD)), default=1)


def with_device_count(parameters: Mapping[str, Any], sections: Collection[str], n: int) -> dict[str, Any]:
    """Return parameters of a run that ask for n devices, of one host.

    Args:
        parameters: of the run, as Prefect has them.
        sections: of them, those that are models with such a field.
        n: at least 1.

    Raises:
        ConfigError: they name one device, and n is more than 1.
    """
    given = {name: parameters.get(name) or {} for name in sections}
    asked = {name: {**own, FIELD: n, **({HOSTS_FIELD: 1} if HOSTS_FIELD in own else {})} for name, own in given.items()}
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


def check_one_host(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that ask for several hosts, where nobody places a run on them.

    Raises:
        ConfigError: `train.n_hosts` is more than 1.
    """
    for name, _, n in _asked(parameters, HOSTS_FIELD):
        if n > 1:
            text = "`yard submit` places a run on several hosts, and computed here it has this one"
            raise ConfigError(f"found {name}.{HOSTS_FIELD}={n}, need 1: {text}")


def _asked(parameters: Mapping[str, Any], field: str = FIELD) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    for name, section in parameters.items():
        n = section.get(field) if isinstance(section, Mapping) else None
        if isinstance(n, int) and not isinstance(n, bool) and n > 0:
            yield name, section, n
