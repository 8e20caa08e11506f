"""Processes of a trial end with it, however it ends."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tasks.trial.processes import Speaker, TrialError

STARTS = """
import sys, time
from pathlib import Path
from tasks.trial.processes import Speaker
stranger = Speaker("tasks.trial.stranger", *sys.argv[2:], log=Path(sys.argv[1]))
print(stranger.hear(60)["pid"], flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("words", [[], ["--detached"]])
def test_a_stranger_ends_when_who_started_it_is_killed(tmp_path, words):
    command = [sys.executable, "-c", STARTS, str(tmp_path / "log"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        stranger = psutil.Process(int(starter.stdout.readline()))
        own = psutil.Process(starter.pid) in stranger.parents()
        starter.kill()
    assert own == (not words)  # a detached one is nobody's child here
    stranger.wait(30)


def test_how_a_process_ended_is_said_with_its_last_words(tmp_path):
    with Speaker("tasks.trial.stranger", "--nonsense", log=tmp_path / "log") as speaker:
        with pytest.raises(TrialError, match="ended with exit code 2: .*unrecognized arguments: --nonsense"):
            speaker.hear(60)
    with Speaker("tasks.trial.stranger", log=tmp_path / "log") as speaker:
        os.kill(speaker.hear(60)["pid"], signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(TrialError, match="ended by SIGKILL: it said nothing"):
            speaker.hear(60)
        assert time.monotonic() - begun < 30
