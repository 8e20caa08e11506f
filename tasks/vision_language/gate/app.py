"""The gate as an ASGI application: who may ask, and what can be asked."""

import hmac
import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.base.errors import ConfigError
from tasks.base.servers.guard import HOSTS, LOOPBACKS, ORIGINS, App, Guard, Receive, Scope, Send, headers_of, listed
from tasks.images.params import PrepareParams
from tasks.vision_language.gate.answers import OpenAi, Plain
from tasks.vision_language.gate.chat_page import PATHS, page_routes
from tasks.vision_language.gate.counters import Counters
from tasks.vision_language.gate.door import Door, Reply
from tasks.vision_language.gate.engine import Engine
from tasks.vision_language.gate.fetch import Hosts
from tasks.vision_language.gate.form import read_form
from tasks.vision_language.gate.order import Order, Rules, read_order
from tasks.vision_language.gate.refusal import Refusal, bad
from tasks.vision_language.gate.request_slots import RequestSlots
from tasks.vision_language.params import GateParams
from tasks.vision_language.token_file import read_token

_MIB = 2**20
_OPEN = PATHS | {"/health"}


class Bearer:
    """An ASGI application that asks the one behind it only for requests that bear the token.

    Args:
        app: the one behind.
        token: None: anybody may ask.
    """

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self._wanted = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and self._wanted is not None and scope["path"] not in _OPEN:
            given = headers_of(scope).get("authorization", "")
            if not hmac.compare_digest(given.encode("latin-1", "replace"), self._wanted):
                message = "found no token, or a wrong one, need that of this server"
                await Reply(send).refuse(Refusal(401, message, "invalid_token"))
                return
        await self._app(scope, receive, send)


class Gate:
    """Everything that one server needs; `app` is the application.

    Args:
        engine: that answers.
        model: by which name people ask for it.
        limit: requests at once.
        params: what it lets in.
        prepare: how large images may be.

    Raises:
        ConfigError: the file of the token cannot be used, or other machines may ask without one.
    """

    def __init__(self, engine: Engine, model: str, limit: int, params: GateParams, prepare: PrepareParams) -> None:
        self.engine, self.model, self.slots = engine, model, RequestSlots(limit)
        self._params = params
        self.counters = Counters(self.slots)
        self._rules = Rules(
            *(model, prepare, params.max_images, params.max_body_mib * _MIB, params.max_tokens, params.image_folder),
            hosts=Hosts.of(params.image_hosts),
        )
        self._begun, self._last = int(time.time()), time.monotonic()
        token = None if params.token_file is None else read_token(params.token_file)
        if token is None and params.host not in LOOPBACKS:
            raise ConfigError(f"found host {params.host} without a token, need gate.token_file, or 127.0.0.1")
        self.app: App = Guard(Bearer(self._seen(self._routes()), token), [*listed(HOSTS), params.host], listed(ORIGINS))

    def idle_s(self) -> float:
        """Return for how long nobody has asked for anything that needs the engine."""
        if self.slots.taken or self.slots.waiting:
            self._last = time.monotonic()
        return time.monotonic() - self._last

    def _routes(self) -> Starlette:
        routes = [
            *page_routes(),
            Route("/v1/chat/completions", self._door(self._read_json), methods=["POST"]),
            Route("/api/chat", self._door(self._read_whole), methods=["POST"]),
            Route("/api/chat_stream", self._door(self._read_stream), methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/limit", self._set_limit, methods=["PUT"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _as_openai})

    def _seen(self, app: App) -> App:
        async def seeing(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST":
                self._last = time.monotonic()
            await app(scope, receive, send)

        return seeing

    def _door(self, read: Any) -> Door:
        plain = read != self._read_json

        def form(order: Order) -> OpenAi | Plain:
            return Plain() if plain else OpenAi(self.model, usage=order.usage)

        return Door(self.engine, self.slots, self.counters, self._params, read=read, form=form)

    def _read_json(self, data: bytes, content_type: str) -> Order:
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, f"found {content_type[:100]!r}, need application/json", "invalid_content_type")
        return read_order(data, self._rules)

    def _read_whole(self, data: bytes, content_type: str) -> Order:
        return read_form(data, content_type, self._rules, stream=False)

    def _read_stream(self, data: bytes, content_type: str) -> Order:
        return read_form(data, content_type, self._rules, stream=True)

    async def _models(self, request: Request) -> Response:
        model = {"id": self.model, "object": "model", "created": self._begun, "owned_by": "trainyard"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _health(self, request: Request) -> Response:
        well = await self.engine.healthy()
        return JSONResponse({"status": "ok" if well else "the engine does not answer"}, 200 if well else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.counters.text(), media_type="text/plain; version=0.0.4")

    async def _set_limit(self, request: Request) -> Response:
        try:
            limit = int(await request.body())
        except ValueError:
            limit = 0
        if not 1 <= limit <= 1000:
            return _refused(bad("need a body with a number from 1 to 1000"))
        was, self.slots.limit = self.slots.limit, limit
        return JSONResponse({"limit": limit, "was": was})


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.as_json(), refusal.status, refusal.headers())


async def _as_openai(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException), "it is called for no other"
    message = f"found {request.method} {request.url.path[:100]}, which is not served: {exc.detail}"
    return JSONResponse(Refusal(exc.status_code, message, "not_served").as_json(), exc.status_code, exc.headers)
