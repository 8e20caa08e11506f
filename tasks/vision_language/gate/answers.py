"""Writes the engine's answer in the form that the client asked for."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from tasks.vision_language.gate.engine import Piece

Usage = Mapping[str, int]


class Form(Protocol):
    """How an answer is written."""

    def whole(self, answer: Piece, usage: Usage) -> dict[str, Any]:
        """Return the answer in one."""
        ...

    def piece(self, piece: Piece, *, first: bool) -> bytes:
        """Return an event of a stream."""
        ...

    def last(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""
        ...


class OpenAi:
    """OpenAI's chat completions.

    Args:
        model: its name.
        usage: the stream is to end with the number of tokens.
    """

    def __init__(self, model: str, *, usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._usage = usage

    def whole(self, answer: Piece, usage: Usage) -> dict[str, Any]:
        """Return a chat.completion."""
        message = {"role": "assistant", "content": answer.text}
        if answer.thought:
            message["reasoning_content"] = answer.thought
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def piece(self, piece: Piece, *, first: bool) -> bytes:
        """Return a chat.completion.chunk."""
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text} if piece.text else {}
        if piece.thought:
            delta["reasoning_content"] = piece.thought
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": piece.finish}], {})

    def last(self, usage: Usage) -> bytes:
        """Return the number of tokens, if they were asked for, and the word that ends all streams."""
        return (self._chunk([], {"usage": usage}) if self._usage else b"") + b"data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        return event({**self._head, "object": "chat.completion.chunk", "choices": choices, **more})


class Plain:
    """Text alone: `{"response": ...}`, in a stream `{"delta": ...}` and at its end `{"done": true}`."""

    def whole(self, answer: Piece, usage: Usage) -> dict[str, Any]:
        """Return the answer in one."""
        return {"response": answer.text, "finish_reason": answer.finish, "usage": usage}

    def piece(self, piece: Piece, *, first: bool) -> bytes:
        """Return more of the text; nothing where there is none."""
        return event({"delta": piece.text}) if piece.text else b""

    def last(self, usage: Usage) -> bytes:
        """Return the end."""
        return event({"done": True, "usage": usage})


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
