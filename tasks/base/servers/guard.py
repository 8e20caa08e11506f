"""Refuses requests to the yard's servers for other host names or from other sites' pages.

A browser sends a page of any site to 127.0.0.1 if that page asks for it, without the person's knowledge. It says so,
though: in `Origin`, in `Sec-Fetch-Site`, and in `Host`, where the page's own name was made to lead here.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Self
from urllib.parse import urlsplit

HOSTS = "TRAINYARD_ALLOWED_HOSTS"
"""Names beside the loopback ones by which people may ask for the services, as behind a proxy: yard.lab,box.lab."""

ORIGINS = "TRAINYARD_ALLOWED_ORIGINS"
"""Pages of other addresses that may use the services: https://portal.lab,http://box.lab:3000."""

LOOPBACKS = frozenset({"127.0.0.1", "localhost", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application that asks the one behind it only for requests that nobody else's page can have sent.

    Args:
        app: the one behind.
        hosts: names beside the loopback ones under which it is asked for, without ports.
        origins: pages of other addresses that may ask, as browsers write them.
    """

    def __init__(self, app: App, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = LOOPBACKS | {host.lower() for host in hosts}
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    @classmethod
    def of_environment(cls, app: App) -> Self:
        """Return one with the names and pages that the settings have."""
        return cls(app, listed(HOSTS), listed(ORIGINS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
        elif fault := self.fault(scope["method"] if scope["type"] == "http" else "", headers_of(scope)):
            await _refuse(scope["type"], fault, send)
        else:
            await self._app(scope, receive, _framed(send))

    def fault(self, method: str, headers: Mapping[str, str]) -> str:
        """Return why a request is refused, empty where it is not.

        Args:
            method: of HTTP; empty for a websocket.
            headers: by their names in small letters.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if _name(host) not in self._hosts:
            return f"found the host {host[:100]!r}, need a loopback name of this machine, or one of {HOSTS}"
        if origin is not None:
            if self._is_own(origin, host):
                return ""
            return f"found a page of {origin[:100]!r}, need one of this server, or of {ORIGINS}"
        elsewhere = headers.get("sec-fetch-site") == "cross-site"
        if elsewhere and not (method == "GET" and headers.get("sec-fetch-mode") == "navigate"):
            return f"found a request of another site's page, need one of this server, or of {ORIGINS}"
        return ""

    def _is_own(self, origin: str, host: str) -> bool:
        if origin.lower() in self._origins:
            return True
        scheme, _, place = origin.lower().partition("://")
        default = _DEFAULT_PORTS.get(scheme)
        if default is None or _port(place, default) != _port(host, default):
            return False
        # All loopback names mean this machine.
        return _name(place) == _name(host) or {_name(place), _name(host)} <= LOOPBACKS


def listed(setting: str) -> list[str]:
    """Return the words of a setting that separates them by commas."""
    return [word.strip() for word in os.environ.get(setting, "").split(",") if word.strip()]


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request; one that is there twice counts as both, and so as no good one."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _name(place: str) -> str:
    """Return the name in HOST or HOST:PORT, empty where it makes no sense."""
    try:
        parts = urlsplit(f"//{place}")
        return (parts.hostname or "") if parts.netloc == place and parts.username is None else ""
    except ValueError:
        return ""


def _port(place: str, default: int) -> int:
    try:
        return urlsplit(f"//{place}").port or default
    except ValueError:
        return -1


async def _refuse(kind: str, fault: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})  # before it is accepted: 403
        return
    body = f"refused: {fault}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _framed(send: Send) -> Send:
    """Add what keeps other sites from showing the pages in a frame of theirs, to be clicked on unseen."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", [])}
            if b"x-frame-options" not in names:
                message["headers"] = [*message.get("headers", []), (b"x-frame-options", b"SAMEORIGIN")]
        await send(message)

    return sending
