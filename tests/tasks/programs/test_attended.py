"""What a command prints reaches the log as lines of plain text, and its terminal stays one."""

import os
import pty
import signal
import subprocess
import sys
import time

from tasks.programs.attended import Lines
from tasks.programs.params import name_of

RUN = """
import os, sys
from tasks.programs.attended import run_attended
from gpu_pools.stopping import obey
words = [sys.executable, "-u", "-c", *sys.argv[2:]]
with open(sys.argv[1], "ab", buffering=0) as file:
    code = obey(lambda: run_attended(words, os.environ, (), file, lambda line: None))
sys.exit(code)
"""


def fed(*parts: bytes) -> list[str]:
    said: list[str] = []
    lines = Lines(said.append)
    for part in parts:
        lines.feed(part)
    lines.end()
    return said


def test_lines_are_plain_and_of_a_bar_the_last_state_counts():
    assert fed(b"\x1b[31mre", b"d\x1b[0m\r\n\n10%\r50%\r", b"100%\nend") == ["red", "100%", "end"]
    assert fed(b"\xff\x00a\n") == ["\N{REPLACEMENT CHARACTER}a"]
    assert [len(line) for line in fed(b"x" * 5000 + b"\n")] == [2000]


def test_a_command_is_called_by_its_script():
    assert name_of(("python", "-u", "/home/anna/my_train.py", "--lr", "0.1")) == "my_train.py"
    assert name_of(("/usr/bin/make", "all")) == "make"


def attended(tmp_path, code: str, **options) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "output.log", code], **options)


def test_streams_stay_apart_and_the_exit_code_is_handed_on(tmp_path):
    code = """
import os, sys
os.write(1, b"out %s\\n" % sys.stdin.buffer.read())  # in one piece: print() unbuffered writes word by word
os.write(2, b"err\\n")
sys.exit(3)
"""
    done = attended(tmp_path, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.communicate(b"words", timeout=60)
    assert done.returncode == 3
    assert b"out words\n" in out
    assert err == b"err\n"
    assert sorted((tmp_path / "output.log").read_bytes().splitlines()) == [b"err", b"out words"]


def test_at_a_terminal_the_command_has_one_of_the_same_size(tmp_path):
    ours, childs = pty.openpty()
    os.set_blocking(ours, False)
    code = "import os, sys; print(sys.stdout.isatty(), sys.stderr.isatty(), *os.get_terminal_size(1))"
    subprocess.run(["stty", "cols", "91", "rows", "17"], stdin=childs, check=True)
    done = attended(tmp_path, code, stdin=childs, stdout=childs, stderr=childs)
    assert done.wait(60) == 0
    assert (tmp_path / "output.log").read_bytes() == b"True True 91 17\n"
    assert b"True True 91 17\r\n" in os.read(ours, 4096)


def test_sigint_is_the_commands_own_affair_and_comes_once(tmp_path):
    code = """
import signal, time
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
print("ready")
while not came: time.sleep(0.01)
time.sleep(1)
print("saved", len(came))
"""
    done = attended(tmp_path, code, stdout=subprocess.PIPE)
    assert done.stdout is not None
    assert done.stdout.readline() == b"ready\n"
    done.send_signal(signal.SIGINT)
    out = done.communicate(timeout=60)[0]
    assert done.returncode == 0
    assert b"saved 1\n" in out


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    done = attended(tmp_path, code, stdout=subprocess.PIPE)
    left = int(done.communicate(timeout=60)[0].split()[0])
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{left}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{left}")
