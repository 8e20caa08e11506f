"""Which served model is meant, where there is none, one, or several."""

import os
import subprocess
import sys

import pytest

from deployments.runs.served_models import find_served, served_models, set_requests_at_once
from gpu_pools.names import host_name
from tasks.base.errors import ConfigError
from tasks.vision_language.address import Address, write_address
from tests.tasks.vision_language.servers import gate_before

NOBODY = "http://127.0.0.1:9"  # the gate answers without its engine


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    return tmp_path


def write(home, run, url, *, model="tiny", pid=None, host=None):
    folder = home / "runs" / run / "serving"
    folder.mkdir(parents=True)
    write_address(folder, Address(f"serve-{run}", url, model, pid or os.getpid(), host or host_name(), None))


def test_one_of_several_is_named_by_run_name_or_model(home):
    with gate_before(NOBODY) as (_, one), gate_before(NOBODY) as (_, two):
        write(home, "aaaa1111", one)
        assert find_served(None).run_id == "aaaa1111"
        write(home, "bbbb2222", two, model="large")
        with pytest.raises(ConfigError, match=r"found 2 served models, need one by its run: have aaaa1111 \(tiny at "):
            find_served(None)
        assert [find_served(name).run_id for name in ("bbbb", "large", "serve-bbbb2222")] == ["bbbb2222"] * 3
        with pytest.raises(ConfigError, match="found no served model 'other', have aaaa1111"):
            find_served("other")


def test_what_does_not_answer_or_is_elsewhere_is_not_served(home):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with gate_before(NOBODY) as (_, url):
        write(home, "killed", url, pid=dead.pid)
        write(home, "ended", NOBODY)
        write(home, "elsewhere", url, host="boxb")
        (home / "runs" / "torn" / "serving").mkdir(parents=True)
        (home / "runs" / "torn" / "serving" / "address.json").write_text('{"url": 1')
        assert served_models() == []


def test_the_requests_at_once_are_changed_and_a_refusal_is_told(home):
    with gate_before(NOBODY) as (gate, url):
        write(home, "aaaa1111", url)
        served = find_served(None)
        assert (set_requests_at_once(served, 7), gate.slots.limit) == (3, 7)
        with pytest.raises(ConfigError, match="refuses 0: need a body with a number from 1 to 1000"):
            set_requests_at_once(served, 0)
    with pytest.raises(ConfigError, match="does not answer"):
        set_requests_at_once(served, 7)
