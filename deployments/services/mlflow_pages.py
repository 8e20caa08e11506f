"""Adapts MLflow's pages: training first, and nothing that reads files or runs commands.

MLflow has no settings for that: its first page is that for language models, and a browser remembers the kind of work.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

FIRST_PAGE = "#/experiments?workflowType=machine_learning"

_REMEMBERED = {  # what a browser that was never here starts with; the names are those of MLflow's own page
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.assistant.panelOpen_v1": False,
}
_HEAD = f"""<style>[data-assistant-ui] {{ display: none !important }}</style><script>
for (const [name, value] of Object.entries({json.dumps(_REMEMBERED)})) {{
  if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value));
}}
if (!location.hash) location.replace({json.dumps(FIRST_PAGE)});
</script>""".encode()
_ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
_OFF = b'{"detail": "the assistant is off on this server: it runs commands as the user of the server"}'
_FILE_OF_TRACE = "/get-trace-artifact"
_NO_TRACES = (
    b'{"detail": "files of traces are off on this server: a yard has none, and a tag says where they are read"}'
)
_NOT_ALIKE = {b"content-length", b"etag", b"last-modified"}


def opened_on_training(app: App) -> App:
    """Return MLflow's app with its first page opened on training, without its assistant and the files of traces.

    Args:
        app: of ASGI.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == _ASSISTANT or path.startswith(f"{_ASSISTANT}/")):
            await _refuse(_OFF, send)
        elif scope["type"] == "http" and path.rstrip("/").endswith(_FILE_OF_TRACE):
            await _refuse(_NO_TRACES, send)
        elif scope["type"] == "http" and path in {"/", "/index.html"} and scope["method"] == "GET":
            await _with_head(app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


async def _refuse(why: bytes, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(why)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": why})


async def _with_head(app: App, scope: Message, receive: Receive, send: Send) -> None:
    """Answer with the page, and what it is to do first in its head."""
    start: Message = {}
    body = bytearray()

    async def gather(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    # Without its validators: a browser would otherwise keep its copy of the page without our script.
    asked = [(name, value) for name, value in scope["headers"] if not name.lower().startswith(b"if-")]
    await app({**scope, "headers": asked}, receive, gather)
    page = bytes(body).replace(b"<head>", b"<head>" + _HEAD, 1) if start["status"] == 200 else bytes(body)
    kept = [(name, value) for name, value in start["headers"] if name.lower() not in _NOT_ALIKE]
    start["headers"] = [*kept, (b"content-length", str(len(page)).encode())]
    await send(start)
    await send({"type": "http.response.body", "body": page})
