"""Processes of two hosts, here both on loopback: they meet, and how one host learns that the other one has ended."""

import threading
import time
from datetime import timedelta

import psutil
import pytest
import torch
import torch.distributed as dist

from gpu_pools.hosts.address import ADDRESS
from gpu_pools.process.run_process import MARK, command_line
from gpu_pools.process.run_setup import MEETING, ON
from gpu_pools.slots.slot_files import SlotProgress
from tasks.base.errors import ConfigError, PutBack, TrainingError
from tasks.training.parallel import helpers, meeting, other_hosts
from tasks.training.parallel.helpers import Helpers
from tasks.training.parallel.meeting import Meeting
from tasks.training.parallel.member import Share, take_part
from tasks.training.parallel.other_hosts import OtherHosts
from tasks.training.parallel.rendezvous import reach_store
from tests.gpu_pools.placement.test_place import holder
from tests.runners import ROOT
from tests.tasks.training.parallel.adding import add_up, adding

CPU = torch.device("cpu")
PATIENCE = timedelta(seconds=20)
RUN = "0" * 8 + "-0000" * 3 + "-" + "0" * 12


@pytest.fixture(autouse=True)
def _two_hosts(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv(ADDRESS, "127.0.0.1")
    monkeypatch.setenv(MARK, RUN)
    monkeypatch.setenv(MEETING, "one boxb")
    monkeypatch.setenv(ON, "cuda:0")


def together(then: str) -> Helpers:
    return Helpers(adding(then), 2, CPU, n_local=1)


class FarHost(threading.Thread):
    """Computes the share of boxb."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.said: str | None = None

    def run(self) -> None:
        while (found := Meeting.read(RUN, "one")) is None:
            time.sleep(0.05)
        with Share(found, "boxb") as share:
            self.said = share.end()


def far_helper() -> psutil.Process:
    children = psutil.Process().children(recursive=True)
    return next(each for each in children if "tasks.training.parallel.helper" in command_line(each))


def test_they_meet_compute_together_and_end_well(tmp_path):
    far = FarHost()
    far.start()
    with together("end") as them:
        path = tmp_path / "runs" / RUN / meeting.FILE
        assert path.stat().st_mode & 0o777 == 0o600
        listening = {each.laddr for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"}
        assert ("127.0.0.1", Meeting.read(RUN, "one").port) in listening
        assert all(address.ip == "127.0.0.1" for address in listening)
        add_up(them.join("bf16"))
    far.join(30)
    assert far.said == ""
    assert not path.exists()
    assert not dist.is_initialized()


def test_a_process_that_fails_on_the_other_host_is_named_with_its_reason():
    far = FarHost()
    far.start()
    with (
        pytest.raises(TrainingError, match=r"^process 2 of 2 \(boxb/cuda:0\) failed: out of luck$"),
        together("out of luck") as them,
    ):
        add_up(them.join("bf16"))
        dist.all_reduce(torch.ones(1))  # the other one has failed by now
    far.join(30)
    assert far.said == "process 2 of 2 failed with exit code 1"


def test_a_process_that_is_killed_on_the_other_host_ends_this_one(monkeypatch):
    ended = threading.Event()
    said: list[str] = []
    monkeypatch.setattr(Helpers, "_end_with", lambda self, text: (said.append(text), ended.set()))
    far = FarHost()
    far.start()
    with together("hang") as them:
        add_up(them.join("bf16"))
        far_helper().kill()
        assert ended.wait(20)
        monkeypatch.setattr(helpers, "_END_S", 0.1)
    assert said[0] == "process 2 of 2 (boxb/cuda:0) was ended by SIGKILL"
    far.join(30)
    assert far.said == "process 2 of 2 was ended by SIGKILL"


@pytest.mark.long
def test_the_end_of_this_one_ends_the_other_host():
    far = FarHost()
    far.start()
    with pytest.raises(ZeroDivisionError), together("hang") as them:
        add_up(them.join("bf16"))
        raise ZeroDivisionError
    far.join(30)
    assert far.said == "the training has ended"


@pytest.mark.long
def test_how_far_the_run_is_stands_on_the_slots_of_the_other_host(monkeypatch):
    said: list[tuple[object, ...]] = []
    monkeypatch.setattr("tasks.training.parallel.member.report_progress", lambda *far: said.append(far))
    own = holder(progress=SlotProgress(3, 10, 60.0, 1.0))
    monkeypatch.setattr(other_hosts, "own_holder", lambda: own)
    monkeypatch.setattr(helpers, "_PROGRESS_S", 0.05)
    far = FarHost()
    far.start()
    with pytest.raises(ZeroDivisionError), together("hang"):
        until = time.monotonic() + 20
        while not said and time.monotonic() < until:
            time.sleep(0.05)
        raise ZeroDivisionError
    far.join(30)
    assert said == [(3, 10, 60.0, "epoch")]


@pytest.mark.long
def test_a_host_that_has_to_leave_says_so_and_computes_until_this_one_has_ended(monkeypatch):
    far = FarHost()
    far.start()
    with pytest.raises(ZeroDivisionError), together("hang") as them:
        add_up(them.join("bf16"))
        assert not them.leaving
        monkeypatch.setattr("tasks.training.parallel.member.stop_asked", lambda: True)
        until = time.monotonic() + 20
        while not them.leaving and time.monotonic() < until:
            time.sleep(0.05)
        assert them.leaving == "the worker of boxb stops"
        assert far.said is None
        raise ZeroDivisionError
    far.join(30)
    assert far.said == "the worker of this host stops"


def test_a_host_that_is_silent_is_lost_and_one_that_leaves_says_why():
    others = OtherHosts({}, 2, 1, "cpu")
    line = reach_store(others.meeting.store)
    assert others.missing() == ["boxb"]
    line.add(f"{meeting.BEAT}boxb", 1)
    assert others.missing() == []
    assert not list(others.lost(0.2))
    time.sleep(0.3)
    (text,) = others.lost(0.2)
    assert text.startswith("boxb has not been heard of for ")
    line.add(f"{meeting.BEAT}boxb", 1)
    assert not list(others.lost(0.2))
    line.set(f"{meeting.LEFT}boxb", "its worker stops")
    line.wait([f"{meeting.LEFT}boxb"], PATIENCE)  # a set has no answer: another connection may be quicker
    assert list(others.lost(0.2)) == ["boxb has left: its worker stops"]
    others.close(0)
    line.wait([meeting.OVER], PATIENCE)


def test_hosts_that_do_not_come_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(meeting, "MEET_S", 0.3)
    with pytest.raises(PutBack, match=r"^boxb did not come within 120 s: waits for its hosts again$"), together("end"):
        pass


def test_a_share_whose_training_does_not_begin_ends(monkeypatch):
    monkeypatch.setattr(meeting, "MEET_S", 0.3)
    assert take_part(RUN, "other") == "its training has not begun within 0 s"


def test_a_run_that_was_not_placed_on_several_hosts_is_refused(monkeypatch):
    monkeypatch.delenv(MEETING)
    with pytest.raises(ConfigError, match="found a run on 1 of 2 hosts"), together("end"):
        pass
