"""A full disk and a lost GPU are told of once, the latter also to whose runs are on it."""

import pytest

from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import get_probe
from gpu_pools.sharing.host_watch import HostWatch
from gpu_pools.sharing.notices import read_waiting
from gpu_pools.sharing.settings import settings_path
from gpu_pools.slots.ledger import Entry
from tasks.base.errors import GpuError


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setenv("TRAINYARD_MIN_FREE", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings_path().write_text("notices: {to: {all: {webhook_file: hook}}}")
    return HostState("boxa", get_probe())


def test_a_disk_that_is_too_full_is_told_of_once(host, monkeypatch):
    HostWatch(host).look([])
    assert read_waiting() == []
    monkeypatch.setenv("TRAINYARD_MIN_FREE", "100TB")
    for _ in range(2):
        HostWatch(host).look([])
    (notice,) = read_waiting()
    assert notice.kind == "disk-low"
    assert notice.text.startswith("On boxa nothing new starts: the disk is full: ")
    assert notice.figures["needed"] == "100.0 TB"


def test_a_gpu_is_lost_when_it_does_not_answer_twice(host, monkeypatch):
    watch, probe = HostWatch(host), type(host._probe)
    answers = probe.device

    def device(self, uuid):
        if uuid.endswith("1"):
            raise GpuError("the driver has lost it")
        return answers(self, uuid)

    monkeypatch.setattr(probe, "device", device)
    run = Entry("r", "rfuav", "anna@boxa", "cuda.training", "cuda:1", "u", 0, "running", 1, 0.0)
    watch.look([run])
    assert read_waiting() == []
    for _ in range(2):
        watch.look([run])
    (notice,) = read_waiting()
    assert (notice.kind, notice.device, notice.owner) == ("device-lost", "boxa/cuda:1", "anna@boxa")
    assert notice.text == (
        "boxa/cuda:1 does not answer and takes no runs: the driver has lost it. Runs on it: rfuav of anna@boxa."
    )


def test_one_that_is_back_at_the_next_look_is_not_told_of(host, monkeypatch):
    watch = HostWatch(host)
    with monkeypatch.context() as patch:
        patch.setattr(HostState, "faults", lambda _: {"cuda:0": "reset"})
        watch.look([])
    watch.look([])
    assert read_waiting() == []
