"""An engine's answer as it is read, from a server that sends exactly these bytes."""

import asyncio
import json
import time
from collections.abc import Sequence

import pytest

from tasks.vision_language.gate.engine import Engine, Piece
from tasks.vision_language.gate.refusal import Refusal

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def said(text: str, finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]}).encode()


def pieces_of(*parts: bytes | float) -> list[Piece]:
    """Return the pieces of what a server sends: bytes, and pauses in seconds between them."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(size.split(b":")[1]))
        for part in parts:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)
        writer.close()

    async def read() -> list[Piece]:
        async with await asyncio.start_server(send, "127.0.0.1", 0) as server:
            engine = Engine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "tiny", asks_usage=False)
            try:
                async with engine.answer({"messages": []}) as pieces:
                    return [piece async for piece in pieces if piece.n or piece.finish]
            finally:
                await engine.close()

    return asyncio.run(read())


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_the_first_text_comes_at_once_and_what_follows_it_closely_in_one():
    role = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
    words = [said(f"w{n} ") + b"\n\n" for n in range(40)]
    slowly = [part for word in words[1:] for part in (word, 0.001)]
    begun = time.monotonic()
    pieces = pieces_of(HEAD + b"\r\n", role, words[0], 0.3, *slowly, said("x", "stop"))
    took_s = time.monotonic() - begun
    assert text_of(pieces) == "".join(f"w{n} " for n in range(40)) + "x"
    assert pieces[0] == Piece("w0 ", n=1)
    assert len(pieces) < (took_s - 0.3) / 0.02 + 4
    assert sum(piece.n for piece in pieces) == 41  # an engine that does not count its tokens has them counted


@pytest.mark.parametrize(
    "sent",
    [
        said("a") + b"\n\n" + said("b", "stop") + b"\n\n",  # no [DONE]
        said("a") + b"\r\n\r\n" + said("b", "stop") + b"\r\n\r\ndata: [DONE]\r\n\r\n",
        b": a comment\n\nevent: x\n" + said("a") + b"\n\n" + said("b") + b"\n\ndata: [DONE]\n\n" + said("c"),
        said("a") + b"\n\n" + said("b", "length"),  # its last line has no end
    ],
)
def test_every_form_of_a_stream_is_read(sent):
    assert text_of(pieces_of(HEAD + b"\r\n", sent)) == "ab"
    assert text_of(pieces_of(HEAD + b"\r\n", *(part for byte in sent for part in (bytes([byte]),)))) == "ab"


def test_an_answer_ends_with_its_last_word_also_where_the_engine_keeps_the_connection():
    words = said("a", "stop") + b"\n\ndata: [DONE]\n\n"
    assert text_of(pieces_of(HEAD + b"\r\n", words, 3600.0)) == "a"


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ((HEAD + b"\r\n", said("a") + b"\n\n"), "breaks off"),
        ((CHUNKED, b"5\r\ndata"), "engine behind this server fails"),  # cut off amid a chunk
        ((CHUNKED, b"no number\r\n", 3600.0), "engine behind this server fails"),
        ((b"what is no HTTP\r\n\r\n",), "engine behind this server fails"),
        ((), "engine behind this server fails"),
        ((HEAD + b"\r\n", b"data: " + b"x" * 2_000_000), "a line of its answer"),
        ((b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",), "302"),
    ],
)
def test_what_is_no_answer_is_told_in_one_sentence(sent, says):
    with pytest.raises(Refusal) as refusal:
        pieces_of(*sent)
    assert refusal.value.status == 502
    assert says in refusal.value.message
