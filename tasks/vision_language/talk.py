"""A talk with a served model, from a program: questions with images, answers as they come."""

import base64
import json
import mimetypes
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from tasks.base.errors import ImageError, TrainyardError
from tasks.base.outside import MIB, read_bytes

_CONNECT_S = 10.0
_MAX_IMAGE_BYTES = 256 * MIB


class TalkError(TrainyardError):
    """The server does not answer, or refuses a question."""


class Talk:
    """Questions and answers so far; each question takes along those before it.

    Args:
        url: of the server, with or without /v1.
        token: that it asks for; empty: none.
        max_tokens: of an answer; None: as many as the server lets.

    Raises:
        TalkError: it does not answer, or wants another token.
    """

    def __init__(self, url: str, token: str = "", *, max_tokens: int | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_S)  # the server limits the time of an answer
        try:
            self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except (httpx.InvalidURL, ValueError) as exc:
            raise TalkError(f"found the address {url!r}, need one such as http://127.0.0.1:8100 ({exc})") from exc
        self.model = self._model()
        self._settings = {"model": self.model, "stream": True} | ({"max_tokens": max_tokens} if max_tokens else {})
        self._messages: list[dict[str, Any]] = []

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def forget(self) -> None:
        """Begin anew."""
        self._messages.clear()

    def ask(self, prompt: str, images: Sequence[str] = ()) -> Generator[str]:
        """Yield the answer in pieces; where the caller closes this before its end, the generation ends.

        What was said until then stays in the talk; a question that was refused does not.

        Args:
            prompt: the question.
            images: data URLs that go with it, see `image_url`.

        Raises:
            TalkError: the server refuses the question, or ends.
        """
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        question = {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}
        said: list[str] = []
        try:
            for piece in self._pieces(question):
                said.append(piece)
                yield piece
        except TalkError:
            said.clear()
            raise
        finally:
            if said:
                self._messages += [question, {"role": "assistant", "content": "".join(said)}]

    def _model(self) -> str:
        try:
            answer = self._client.get("/v1/models", timeout=_CONNECT_S)
            if answer.status_code != 200:
                raise TalkError(_refused(answer.status_code, answer.text))
            return str(answer.json()["data"][0]["id"])
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise TalkError(self._gone(exc)) from exc
        except (ValueError, LookupError, TypeError) as exc:
            raise TalkError(f"found something else at {self.url}, need a server of OpenAI's chat API") from exc

    def _pieces(self, question: dict[str, Any]) -> Iterator[str]:
        body = {**self._settings, "messages": [*self._messages, question]}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise TalkError(_refused(answer.status_code, answer.read().decode(errors="replace")))
                yield from _texts(answer)
        except httpx.HTTPError as exc:
            raise TalkError(self._gone(exc)) from exc

    def _gone(self, exc: Exception) -> str:
        return f"{self.url} does not answer ({exc}): has the server ended?"


def _texts(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        if text := _text(data):
            yield text
    raise TalkError("the answer breaks off: the server has ended")


def _text(data: str) -> str:
    """Return the text in an event of a stream.

    Raises:
        TalkError: it is an error, or makes no sense.
    """
    try:
        event = json.loads(data)
        if "error" in event:
            raise TalkError(str(event["error"]["message"]))
        choices = event.get("choices")
        return str(choices[0]["delta"].get("content") or "") if choices else ""
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise TalkError(f"found {data[:100]!r} in the answer, need events of OpenAI's chat API") from exc


def _refused(status: int, text: str) -> str:
    try:
        text = str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        text = text[:300].strip()
    more = "; --token-file names the file with it" if status == 401 else ""
    return f"{text}{more}" if text else f"the server answers {status}"


def image_url(path: Path) -> str:
    """Return an image file as a data URL; whether it is one, the server says.

    Raises:
        ImageError: it cannot be read, or is larger than 256 MiB.
    """
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    data = read_bytes(path.expanduser(), ImageError, _MAX_IMAGE_BYTES)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def printable(text: str) -> str:
    """Return a text without what a terminal would obey."""
    return "".join(sign for sign in text if sign.isprintable() or sign in "\n\t")
