"""Lines of the audit are whole, whoever writes at once and whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.sharing import audit_file
from deployments.sharing.audit_file import append, audit_path, old_path, read_lines
from tasks.base.errors import StorageError

FOREVER = """
import itertools, sys
from deployments.sharing.audit_file import append
for n in itertools.count():
    append({"id": f"{sys.argv[1]}-{n}", "at": "x", "said": "y" * 3000})
    print(n, flush=True)
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))


def _write(writer, n):
    for i in range(n):
        append({"id": f"{writer}-{i}", "at": "x", "said": "ä" * (1 + (7919 * (i + writer)) % 2000)})


def _lines_of_eight(n):
    """Let eight processes write n lines each at once; return what is read, in which nothing may be torn."""
    context = get_context("fork")
    writers = [context.Process(target=_write, args=(writer, n)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    lines, n_torn = read_lines()
    assert n_torn == 0
    return lines


def test_eight_writers_tear_no_line_and_lose_none():
    lines = _lines_of_eight(200)
    assert sorted(line["id"] for line in lines) == sorted(f"{w}-{i}" for w in range(8) for i in range(200))


def test_eight_writers_tear_no_line_while_the_file_is_put_aside(monkeypatch):
    monkeypatch.setattr(audit_file, "LARGEST_BYTES", 400_000)
    lines = _lines_of_eight(50)
    assert audit_path().stat().st_size < 400_000 + 5000
    assert 400_000 <= old_path().stat().st_size < 400_000 + 5000
    each = [[int(line["id"].split("-")[1]) for line in lines if line["id"].startswith(f"{w}-")] for w in range(8)]
    assert all(found == list(range(50 - len(found), 50)) for found in each)  # the newest, each once, in their order


def test_a_writer_that_is_killed_leaves_whole_lines():
    process = subprocess.Popen([sys.executable, "-c", FOREVER, "killed"], stdout=subprocess.PIPE, text=True)
    for _ in range(50):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    n_said = 50 + len(process.stdout.read().splitlines())
    process.wait()
    lines, n_torn = read_lines()
    assert (n_torn, len(lines) - n_said in {0, 1}) == (0, True)
    append({"id": "next", "at": "x"})  # the lock went with it
    assert read_lines()[0][-1]["id"] == "next"


def test_what_a_dying_machine_left_of_a_line_spoils_no_other():
    append({"id": "a", "at": "x"})
    with audit_path().open("ab") as file:
        file.write(b'{"id": "torn", "at')
    append({"id": "b", "at": "x"})
    lines, n_torn = read_lines()
    assert [line["id"] for line in lines] == ["a", "b"]
    assert n_torn == 1


def test_a_full_disk_leaves_nothing_of_a_line(monkeypatch):
    append({"id": "a", "at": "x"})
    whole, write = audit_path().read_bytes(), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        with pytest.raises(StorageError, match="audit.jsonl could not be written: No space left on device"):
            append({"id": "b", "at": "x"})
    assert audit_path().read_bytes() == whole


def test_no_link_is_written_through(tmp_path):
    target = tmp_path / "other"
    target.touch()
    audit_path().symlink_to(target)
    with pytest.raises(StorageError, match="audit.jsonl could not be written: Too many levels of symbolic links"):
        append({"id": "a", "at": "x"})
    assert target.read_bytes() == b""


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=200), st.dictionaries(st.sampled_from(["name", "said", "details"]), st.text(max_size=200)))
def test_whatever_a_name_holds_a_line_is_one_line(name, more):
    before = len(read_lines()[0])
    append({"id": name, "at": "x", **more})
    lines, n_torn = read_lines()
    assert (len(lines), n_torn) == (before + 1, 0)
    assert lines[-1] == {"id": name, "at": "x", **more}


def test_lines_take_little_time():
    begun = time.perf_counter()
    for n in range(200):
        append({"id": str(n), "at": "x"})
    assert (time.perf_counter() - begun) / 200 < 0.01
    assert json.loads(audit_path().read_text().splitlines()[0]) == {"id": "0", "at": "x"}
