"""A talk from a program with servers that are well, and with servers that are none of OpenAI's kind."""

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from tasks.vision_language.gate.server import listening, open_socket
from tasks.vision_language.talk import Talk, TalkError, image_url, printable
from tests.tasks.vision_language.servers import fake_engine, gate_before, in_thread


def served(models, chat):
    """Return what serves these two answers for a block."""

    async def _models(request):
        return models

    async def _chat(request):
        return chat

    routes = [Route("/v1/models", _models), Route("/v1/chat/completions", _chat, methods=["POST"])]
    return in_thread(lambda: listening(Starlette(routes=routes), open_socket("127.0.0.1", 0)))


MODELS = {"data": [{"id": "x"}]}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("data: [1, \n\n", r"found '\[1,' in the answer"),
        ("data: 7\n\n", "found '7' in the answer"),
        ('data: {"choices": [{}]}\n\n', "in the answer, need events"),
        ('data: {"choices": []}\n\n', "breaks off"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "^out of memory$"),
        ("", "breaks off"),
    ],
)
def test_an_answer_that_makes_no_sense_is_one_sentence(said, error):
    with served(JSONResponse(MODELS), PlainTextResponse(said)) as url:
        with pytest.raises(TalkError, match=error):
            list(Talk(url).ask("hi"))


@pytest.mark.parametrize("models", [JSONResponse([]), PlainTextResponse("<html>"), JSONResponse({"data": []})])
def test_a_server_of_another_kind_is_told(models):
    with served(models, PlainTextResponse("")) as url:
        with pytest.raises(TalkError, match="found something else at http"):
            Talk(url)


@pytest.mark.parametrize("url", ["", "not an address", "ftp://127.0.0.1", "http://[::1", "http://127.0.0.1:9"])
def test_an_address_where_nobody_is_is_told(url):
    with pytest.raises(TalkError):
        Talk(url)


def test_a_question_that_is_refused_or_fails_is_no_part_of_the_talk(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with fake_engine() as engine, gate_before(engine.url) as (_, url):
        talk = Talk(url)
        with pytest.raises(TalkError, match="not an image"):
            list(talk.ask("words 1", [image_url(tmp_path / "a.png")]))
        with pytest.raises(TalkError, match="out of memory"):
            list(talk.ask("error"))
        assert "".join(talk.ask("words 2")) == "w0 w1 "
        assert [len(body["messages"]) for body in engine.asked] == [1, 1]
        talk.forget()
        assert "".join(talk.ask("words 1")) == "w0 "
        assert len(engine.asked[-1]["messages"]) == 1
        talk.close()


def test_what_a_terminal_would_obey_is_left_out():
    assert printable("a\x1b]0;title\x07\tb\n\u202ec") == "a]0;title\tb\nc"
