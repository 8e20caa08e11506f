"""Finds the address by which other hosts reach this one, and its network interface."""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

import psutil

from tasks.base.errors import ConfigError

ADDRESS = "TRAINYARD_ADDRESS"
"""Of a worker: the address, or name, of its host by which others reach it, where several hosts train together."""


def own_address(others: Iterable[str] = ()) -> str:
    """Return this host's address on the network that the yard's hosts share.

    TRAINYARD_ADDRESS; else the one from which this host reaches Prefect's server; where that is on this very host, the
    one from which it reaches another host of the yard by its name.

    Args:
        others: names of these.

    Raises:
        ConfigError: what TRAINYARD_ADDRESS says is no address of this host, or there is none that others could reach.
    """
    if named := os.environ.get(ADDRESS, "").strip():
        return _of_this_host(named)
    server = urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname or ""
    found = next(_addresses_towards((server, *others), _from), None)
    if found is None:
        raise ConfigError(
            f"found no address by which other hosts reach this one: set {ADDRESS} for its worker to one of its own"
        )
    return found


def interface_of(address: str) -> str:
    """Return the name of the network interface that has an address.

    Raises:
        ConfigError: none has it.
    """
    for name, has in _interfaces().items():
        if address in has:
            return name
    raise ConfigError(f"found no network interface with the address {address}, have: {_have()}")


def _addresses_towards(hosts: Iterable[str], towards: Callable[[str], str | None]) -> Iterator[str]:
    for host in filter(None, hosts):
        found = towards(host)
        if found is not None and not ip_address(found).is_loopback:
            yield found


def _from(host: str) -> str | None:
    """Return the address from which packets go to a host; None: nobody knows the host, or no way leads there."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)  # of UDP: chooses a way, and sends nothing
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


def _of_this_host(named: str) -> str:
    try:
        found = {str(where[0]) for *_, where in socket.getaddrinfo(named, None, type=socket.SOCK_STREAM)}
    except OSError as exc:
        raise ConfigError(f"found {ADDRESS}={named!r}, need an address or a name of this host: {exc}") from exc
    own = sorted(found & {address for has in _interfaces().values() for address in has})
    if not own:
        raise ConfigError(f"found {ADDRESS}={named!r}, need an address of this host, one of: {_have()}")
    return own[0]


def _interfaces() -> Mapping[str, list[str]]:
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [each.address.partition("%")[0] for each in addresses if each.family in families]
        for name, addresses in psutil.net_if_addrs().items()
    }


def _have() -> str:
    return ", ".join(address for has in _interfaces().values() for address in has) or "none"
