"""Fetches images from the hosts that are listed, and from no address inside unless it is listed itself."""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import httpcore

from tasks.base.errors import ConfigError
from tasks.vision_language.gate.refusal import Refusal, bad

FETCH_LIMIT_S = 30.0
"""For all images of a request."""

_PORTS = {"http": 80, "https": 443}
_HEADERS = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", "trainyard")]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that images may be fetched from.

    Args:
        places: host, and port or None for that of the scheme.
    """

    places: frozenset[tuple[str, int | None]]

    @classmethod
    def of(cls, listed: Iterable[str]) -> "Hosts":
        """Return them by words such as `images.lab`, `images.lab:8080`, `10.0.0.7` or `[fd00::7]:8080`.

        Raises:
            ConfigError: one is none of these.
        """
        try:
            found = [urlsplit(f"//{word}") for word in listed]
            return cls(frozenset((parts.hostname or "", parts.port) for parts in found))
        except ValueError as exc:
            raise ConfigError(f"found the hosts {', '.join(listed)}, need names or addresses ({exc})") from exc

    def have(self, parts: SplitResult) -> bool:
        """Return whether a URL is of one of them."""
        host, port = parts.hostname or "", parts.port
        default = _PORTS[parts.scheme]
        return (host, port or default) in self.places or ((host, None) in self.places and port in (None, default))

    def have_address(self, address: Address) -> bool:
        """Return whether an address may be connected to: one of the open internet, or one that is listed as such."""
        return _is_open(address) or str(address) in {host for host, _ in self.places}


def _is_open(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_open(inner)
    return address.is_global and not address.is_multicast


def fetch(url: str, name: str, hosts: Hosts, max_bytes: int, deadline: float) -> bytes:
    """Return what is at a URL.

    Args:
        url: http: or https:.
        name: of the image, for the message.
        hosts: that it may be of.
        max_bytes: of it.
        deadline: of `time.monotonic`.

    Raises:
        Refusal: 400, another host, an address inside, a redirect, or nothing that can be fetched; 413, it is larger.
    """
    try:
        parts = urlsplit(url)
        allowed = parts.username is None and hosts.have(parts)
    except (ValueError, KeyError) as exc:
        raise bad(f"{name}: found a damaged URL ({exc})", "invalid_image_url") from exc
    if not allowed:
        shown = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        raise bad(f"{name}: found an image of {shown!r}, need a host of this server's list", "image_url_refused")
    try:
        with httpcore.ConnectionPool(_tls(), network_backend=_Inside(name, hosts)) as pool:
            with pool.stream("GET", _exact(parts), headers=_HEADERS, extensions=_times(deadline)) as answer:
                return _content(answer, name, max_bytes, deadline)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ValueError) as exc:
        why = str(exc) or type(exc).__name__
        raise bad(f"{name}: cannot be fetched from {parts.hostname} ({why[:200]})", "image_unreadable") from exc


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _exact(parts: SplitResult) -> httpcore.URL:
    """Return a URL whose host is the one that was looked at, whatever else could be read into its text."""
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        f"?{quote(parts.query, safe='/%:@!$&()*+,;=~?')}" if parts.query else ""
    )
    host = (parts.hostname or "").encode("ascii")
    return httpcore.URL(scheme=parts.scheme.encode(), host=host, port=parts.port, target=target.encode())


def _times(deadline: float) -> dict[str, Any]:
    left = max(0.01, deadline - time.monotonic())
    return {"timeout": {"connect": left, "read": left, "write": left, "pool": left}}


def _content(answer: httpcore.Response, name: str, max_bytes: int, deadline: float) -> bytes:
    if 300 <= answer.status < 400:
        raise bad(f"{name}: found a redirect, need the URL of the image itself", "image_url_refused")
    if answer.status != 200:
        raise bad(f"{name}: cannot be fetched, its server answers {answer.status}", "image_unreadable")
    data = bytearray()
    for piece in _in_time(answer.iter_stream(), deadline):
        data += piece
        if len(data) > max_bytes:
            raise Refusal(413, f"{name}: found more than {max_bytes} bytes, need less", "image_too_large")
    return bytes(data)


def _in_time(pieces: Iterable[bytes], deadline: float) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        if time.monotonic() > deadline:
            raise TimeoutError(f"it takes longer than {FETCH_LIMIT_S:g} s")


class _Inside(httpcore.SyncBackend):
    """Connects to the address that it has looked at: a name that is asked for twice may mean two."""

    def __init__(self, name: str, hosts: Hosts) -> None:
        self._name, self._hosts = name, hosts

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """Connect to one of the addresses of a host, if all may be.

        Raises:
            Refusal: one may not.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(where[0]).partition("%")[0]) for *_, where in found]
        for address in addresses:
            if not self._hosts.have_address(address):
                text = f"{self._name}: found {host}, which is an address inside, need that address in the server's list"
                raise bad(text, "image_url_refused")
        return self._first(addresses, port, *args, **options)

    def _first(self, addresses: list[Address], port: int, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        for n, address in enumerate(addresses, start=1):
            try:
                return super().connect_tcp(str(address), port, *args, **options)
            except httpcore.ConnectError:
                if n == len(addresses):
                    raise
        raise OSError("the name has no address")
