"""`yard chat` and `yard limit` of a served model, as people type them: pipes, a terminal, Ctrl-C, what is not there."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from PIL import Image

from tests.tasks.vision_language.servers import fake_engine, gate_before, until
from tests.tasks.vision_language.yard_serve import ENGINE, YARD, address, ends, environment, make_model, yard_serve

TOKEN = "a-word-of-some-length"


@pytest.fixture
def engine():
    with fake_engine() as engine:
        yield engine


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def yard(home, *words, lines=""):
    command = [str(YARD), *map(str, words)]
    pipes = {"capture_output": True, "text": True, "check": False, "timeout": 250}
    return subprocess.run(command, env=environment(home), cwd=home, input=lines, **pipes)


def kinds(message: dict) -> list[str]:
    return [part["type"] for part in message["content"]]


def test_one_question_prints_the_answer_alone(engine, tmp_path, picture):
    with gate_before(engine.url) as (_, url):
        done = yard(tmp_path, "chat", picture, picture, "--url", url, "-p", "words 3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "w0 w1 w2 \n", "")
    assert kinds(engine.asked[0]["messages"][0]) == ["image_url", "image_url", "text"]


def test_each_line_of_a_pipe_is_a_question_of_one_talk(engine, tmp_path, picture):
    lines = f"words 1\n\n/image {picture}\nwords 2\n/new\nwords 3\n"
    with gate_before(engine.url) as (_, url):
        done = yard(tmp_path, "chat", "--url", f"{url}/v1", lines=lines)
    assert (done.returncode, done.stdout) == (0, "w0 \nw0 w1 \nw0 w1 w2 \n")
    first, second, third = (body["messages"] for body in engine.asked)
    assert [len(first), len(second), len(third)] == [1, 3, 1]
    assert [kinds(message) for message in second] == [["text"], ["text"], ["image_url", "text"]]


def test_what_is_not_answered_is_one_sentence_and_the_rest_is_not_asked(engine, tmp_path, picture):
    with gate_before(engine.url, limit=1) as (gate, url):
        done = yard(tmp_path, "chat", "--url", url, lines="words 1\nerror\nwords 1\n")
        assert (done.returncode, done.stderr) == (1, "error: the engine behind this server does not answer "
                                                     "(out of memory)\n")  # fmt: skip
        assert len(engine.asked) == 2
        for words, sentence in (
            (["chat", "--url", url, tmp_path / "none.png", "-p", "x"], "none.png"),
            (["chat", "--url", url, "--run", "x", "-p", "x"], "need one of them"),
            (["chat", "--url", "http://127.0.0.1:9", "-p", "x"], "does not answer"),
            (["chat", "-p", "x"], "found no served model, none is served on this machine"),
            (["limit", "tiny", "4"], "found no served model 'tiny'"),
            (["limit", "cuda:1", "4"], "no server"),  # a device's limits are kept there
        ):
            done = yard(tmp_path, *words)
            assert (done.returncode, done.stdout) == (1, "")
            assert sentence in done.stderr
            assert "Traceback" not in done.stderr
        with subprocess.Popen(
            [YARD, "chat", "--url", url, "-p", "slow"], env=environment(tmp_path), stdout=subprocess.PIPE
        ) as slow:
            until(lambda: gate.slots.taken == 1, 30)
            done = yard(tmp_path, "chat", "--url", url, "-p", "words 1")
            assert done.stderr == "error: busy: 1 requests are being answered, at most 1 at once; try again\n"
            slow.send_signal(signal.SIGINT)
            assert slow.wait(10) == 130
        until(lambda: gate.slots.taken == 0)


def test_the_token_is_that_of_the_file(engine, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with gate_before(engine.url, token_file=file) as (_, url):
        assert "--token-file" in yard(tmp_path, "chat", "--url", url, "-p", "words 1").stderr
        assert yard(tmp_path, "chat", "--url", url, "-p", "words 1", "--token-file", file).stdout == "w0 \n"


def test_a_model_that_sends_what_terminals_obey_is_printed_without(engine, tmp_path):
    engine.says = "red\x1b[31m\x07"
    with gate_before(engine.url) as (_, url):
        done = yard(tmp_path, "chat", "--url", url, "-p", "what is it?")
    engine.says = ""
    assert done.stdout == "red[31m \n"


class Terminal:
    """A command on a terminal of its own, which a person types into."""

    def __init__(self, home, *words):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execve(YARD, ["yard", *map(str, words)], {**environment(home), "TERM": "dumb"})
        self.shown = ""

    def see(self, text: str, limit_s: float = 60) -> None:
        """Wait until something is shown that was not before."""
        deadline = time.monotonic() + limit_s
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.file], [], [], 0.1)[0]:
                self.shown += os.read(self.file, 65_536).decode()
        self.shown = self.shown.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(home, *words) -> Iterator[Terminal]:
    shown = Terminal(home, *words)
    try:
        yield shown
    finally:
        os.close(shown.file)


def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_ends(engine, tmp_path, picture):
    with gate_before(engine.url) as (gate, url), terminal(tmp_path, "chat", picture, "--url", url) as person:
        person.see("tiny at http")
        person.see("> ")
        person.type("slow\n")
        person.see("w3 ")
        person.type("\x03")
        person.see("(stopped)")
        until(lambda: gate.slots.taken == engine.running == 0)
        person.see("> ")
        person.type("/nothing\n")
        person.see("error: found /nothing")
        person.type("words 2\n")
        person.see("w0 w1")
        person.see("> ")
        person.type("\x03")
        person.see("Ctrl-D ends")
        person.type("\x04")
        assert person.code() == 0
    messages = engine.asked[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [kinds(messages[0]), kinds(messages[2])] == [["image_url", "text"], ["text"]]
    assert messages[1]["content"][0]["text"].startswith("w0 w1 w2 w3 ")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.timeout(300)
@pytest.mark.long
def test_the_served_model_of_this_home_is_found_asked_and_limited(tmp_path, model):
    (token := tmp_path / "token").write_text(TOKEN)
    token.chmod(0o600)
    with yard_serve(tmp_path, model, "--engine", ENGINE, "--token-file", str(token)) as process:
        said = address(tmp_path, process)
        assert yard(tmp_path, "chat", "-p", "words 2").stdout == "w0 w1 \n"
        assert yard(tmp_path, "chat", "--run", "serve-tiny", "-p", "words 1").stdout == "w0 \n"
        done = yard(tmp_path, "limit", "tiny", "5")
        assert done.stdout.endswith("answers 5 requests at once now; it was 3\n")
        assert "need a body with a number from 1 to 1000" in yard(tmp_path, "limit", "tiny", "0").stderr
        process.kill()
        assert ends([said["pid"]])
    assert list(tmp_path.glob("runs/*/serving/address.json"))  # of a run that was killed
    assert "found no served model" in yard(tmp_path, "chat", "-p", "words 1").stderr


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["asks once", "is killed"])
@pytest.mark.long
def test_a_model_of_a_folder_is_served_for_the_time_of_the_talk(tmp_path, model, how):
    command = [YARD, "chat", "--model", model, "--device", "cpu"]
    with subprocess.Popen(
        command, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    ) as process:
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.readline()
        family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(family) >= 3
        if how == "is killed":
            process.kill()
        else:
            process.stdin.close()
            assert process.wait(60) == 0
        assert ends(family, 60)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    done = yard(tmp_path, "chat", "--model", tmp_path, "--device", "cpu", "-p", "x")
    assert done.returncode == 1
    assert "found no config.json" in done.stderr


@pytest.mark.timeout(300)
@pytest.mark.long
def test_the_demo_serves_asks_and_describes_and_leaves_no_process(tmp_path):
    done = yard(tmp_path, "demo", "ask", "--folder", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "> Are you sure?" in done.stdout
    assert "What to look at" in done.stdout
    assert sorted(path.name for path in (tmp_path / "demo/ask/pictures").iterdir()) == [
        "blue-disc.png",
        "red-square.png",
    ]
    engine = f"serve {tmp_path}"
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if engine in " ".join(p.info["cmdline"] or [])])
