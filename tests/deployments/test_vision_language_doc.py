"""Every worked example of the page on vision-language models does what it says, with a model that is served."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from deployments.services.service import free_port
from tests.tasks.vision_language.yard_serve import address, environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

PAGE = (Path(__file__).parents[2] / "docs" / "vision-language.md").read_text()
MAKING, SERVING = re.search(r"^    (mkdir /tmp/tiny .*?)\n    (yard serve /tmp/tiny .*?)$", PAGE, re.M | re.S).groups()
ASKING = PAGE[PAGE.index("## Ask") :]
LINES = [line.removeprefix("    ") for line in
         re.findall(r"^    (?:yard chat|curl) (?:.*\\\n)*.*$", ASKING, re.M)]  # fmt: skip
(PYTHON,) = re.findall(r"```python\n(.*?)```", ASKING, re.S)


class Reader:
    """Somebody who types what the page says, in a folder with images."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.environ = {**environment(folder / "home"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for n, name in enumerate(("before", "after", "part", "a")):
            Image.new("RGB", (60, 40), (50 * n, 0, 200)).save(folder / f"{name}.jpg")
        (folder / "questions.txt").write_text("What is it?\nAre you sure?\n")

    def text(self, said):
        """Return a text of the page with this machine's folder and port."""
        return (
            said.replace("/tmp/tiny", str(self.folder / "tiny")).replace("8100", str(self.port)).replace("\n    ", "\n")
        )

    def does(self, command):
        """Return what a command prints; it ends well."""
        pipes = {"capture_output": True, "text": True, "check": False, "stdin": subprocess.DEVNULL}
        command = ["bash", "-c", self.text(command)]
        done = subprocess.run(command, cwd=self.folder, env=self.environ, timeout=250, **pipes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("reader"))
    (reader.folder / "home").mkdir()
    reader.does(MAKING)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = ["bash", "-c", f"exec {reader.text(SERVING)}"]
    with subprocess.Popen(command, cwd=reader.folder, env=reader.environ, **pipes) as process:
        try:
            assert address(reader.folder / "home", process)["url"] == f"http://127.0.0.1:{reader.port}"
            yield reader
        finally:
            process.terminate()
            process.communicate(timeout=60)


def test_the_page_has_its_examples():
    assert [sum(line.startswith(word) for line in LINES) for word in ("yard chat", "curl")] == [3, 2]


@pytest.mark.parametrize("line", LINES)
def test_a_line_for_the_terminal_does_what_it_says(reader, line):
    said = reader.does(line)
    if "/api/chat_stream" in line:
        events = [json.loads(event[6:]) for event in said.split("\n\n") if event]
        assert events[-1]["done"]
        assert {"delta"} in [event.keys() for event in events]
    elif "/api/chat" in line:
        assert json.loads(said).keys() == {"response", "finish_reason", "usage"}
    else:
        assert said.count("\n") >= {"-p": 1, "<": 2}.get(next(iter(re.findall(r" (-p|<) ", line)), ""), 0)


def test_the_client_of_python_is_answered(reader):
    (reader.folder / "ask.py").write_text(reader.text(PYTHON))
    assert reader.does("python ask.py")
