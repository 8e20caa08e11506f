"""How a slot was used: by the clock, and by what the GPU's probe says meanwhile."""

import json
import os
import subprocess
import time
from dataclasses import replace

import pytest

from gpu_pools.placement.probe import SimulatedProbe
from gpu_pools.slots.lease import acquire, own_holder
from gpu_pools.slots.slot_files import Holder
from gpu_pools.slots.slot_meter import SlotMeter, metered, slot_use
from gpu_pools.slots.use import SlotUse

(GPU,) = SimulatedProbe(1).devices()
HOLDER = Holder("r1", "rfuav", "anna@boxa", "cuda:0", GPU.uuid, "training", 0, os.getpid(), 0.0, None)


@pytest.fixture
def load(tmp_path):
    """Return a probe of one simulated GPU, and a function that sets how busy it is, in percent."""
    path = tmp_path / "state.json"

    def busy(percent: int) -> None:
        path.with_suffix(".tmp").write_text(json.dumps({"cuda:0": {"utilisation_percent": percent}}))
        path.with_suffix(".tmp").rename(path)

    return SimulatedProbe(1, path), busy


def test_the_share_is_the_mean_of_what_the_probe_said(load):
    probe, busy = load
    busy(80)
    with SlotMeter([replace(HOLDER, since=time.time())], probe, every_s=0.01) as meter:
        time.sleep(0.4)
        before = meter.use()
        busy(20)
        time.sleep(0.4)
    use = meter.use()
    assert before.gpu_busy_share == pytest.approx(0.8)
    assert use.gpu_busy_share == pytest.approx(0.5, abs=0.1)
    time.sleep(0.1)
    assert meter.use().gpu_busy_share == use.gpu_busy_share  # nobody looks any more


def test_the_time_counts_from_the_taking_of_the_slot(load):
    with SlotMeter([replace(HOLDER, since=time.time() - 30)], load[0]) as meter:
        assert meter.use().first_batch_s is None
        meter.batch_done()
        time.sleep(0.2)
        meter.batch_done()  # the first one counts
        use = meter.use()
    assert use.first_batch_s == pytest.approx(30, abs=0.1)
    assert use.held_s == pytest.approx(30.2, abs=0.15)


def test_of_the_cpu_no_share_is_told():
    with SlotMeter([replace(HOLDER, uuid="cpu", since=time.time())], SimulatedProbe(0), every_s=0.01) as meter:
        time.sleep(0.05)
    assert meter.use().gpu_busy_share is None


def test_a_gpu_that_is_gone_has_no_share_and_ends_nothing():
    with SlotMeter([replace(HOLDER, since=time.time())], SimulatedProbe(0), every_s=0.01) as meter:
        time.sleep(0.05)
    assert meter.use().gpu_busy_share is None


def state_of(path, **state):
    path.with_suffix(".tmp").write_text(json.dumps({"cuda:0": state}))
    path.with_suffix(".tmp").rename(path)


def metered_for(seconds, probe, **changes):
    with SlotMeter([replace(HOLDER, since=time.time(), **changes)], probe, every_s=0.02) as meter:
        time.sleep(seconds)
    return meter.use()


def test_energy_is_power_times_time_where_the_gpu_does_not_count_it(load, slot):
    load[1](50)  # of a simulated GPU: 180 W
    with slot("training"):
        assert metered_for(0.5, load[0]).energy_wh == pytest.approx(180 * 0.5 / 3600, rel=0.2)


def test_runs_that_share_a_gpu_bear_its_energy_in_equal_parts(load, slot):
    load[1](50)
    with slot("training"), slot("training"):
        assert metered_for(0.5, load[0]).energy_wh == pytest.approx(90 * 0.5 / 3600, rel=0.2)


def test_the_peak_is_of_the_memory_of_the_runs_own_processes(load, slot, tmp_path):
    with subprocess.Popen(["sleep", "60"]) as child:
        own = [{"pid": pid, "user": "a", "name": "x", "memory_mib": 300} for pid in (os.getpid(), child.pid)]
        other = {"pid": os.getppid(), "user": "b", "name": "y", "memory_mib": 5000}
        state_of(tmp_path / "state.json", processes=[*own, other])
        with SlotMeter([replace(HOLDER, since=time.time())], load[0], every_s=0.02) as meter:
            time.sleep(0.2)
            state_of(tmp_path / "state.json", processes=[own[0], other])
            time.sleep(0.2)
        child.kill()
    assert meter.use().peak_memory_mib == 600


def test_the_attempts_of_a_run_are_one_use():
    first = SlotUse(100.0, 20.0, 0.5, 10.0, 9000.0)
    assert SlotUse(50.0, 5.0, 0.8, 4.0, 4000.0).after(first) == SlotUse(150.0, 5.0, 0.6, 14.0, 9000.0)
    assert SlotUse(50.0, 5.0).after(SlotUse()) == SlotUse(50.0, 5.0)
    assert SlotUse(50.0).after(first) == SlotUse(150.0, None, 0.5, 10.0, 9000.0)


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """Return a function that takes a slot of a kind for this process."""
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "1")
    monkeypatch.delenv("TRAINYARD_LEASE", raising=False)

    def take(kind):
        lease = acquire("cpu" if kind == "pipeline" else GPU.uuid, kind, 2, replace(HOLDER, since=time.time()))
        for name, value in lease.env.items():
            monkeypatch.setenv(name, value)
        return lease

    return take


def test_a_pipeline_only_waits_on_its_slot(slot):
    with slot("pipeline") as lease, metered():
        assert own_holder() == lease.holder
        assert slot_use() is None


def test_a_process_without_a_slot_has_nothing_to_tell(monkeypatch):
    monkeypatch.delenv("TRAINYARD_LEASE", raising=False)
    with metered():
        assert slot_use() is None


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (SlotUse(67.4, 20.12, 0.254), "held 67 s, first batch after 20.1 s, GPU 25 % busy"),
        (SlotUse(3.0, None, None), "held 3 s"),
        (SlotUse(4000.0, None, 1.0), "held 1 h 6 min 40 s, GPU 100 % busy"),
        (SlotUse(3.0, None, None, 12.34, 8100.4), "held 3 s, 12.3 Wh, 8,100 MiB at most"),
    ],
)
def test_people_read_it_in_a_sentence(use, said):
    assert use.sentence() == said


def test_of_several_gpus_the_energy_is_summed_and_the_share_is_their_mean(tmp_path, slot):
    path = tmp_path / "two.json"
    path.write_text(json.dumps({f"cuda:{n}": {"utilisation_percent": percent} for n, percent in enumerate((50, 100))}))
    slots = [replace(HOLDER, since=time.time(), uuid=f"GPU-simulated-{n}", device=f"cuda:{n}") for n in (0, 1)]
    with SlotMeter(slots, SimulatedProbe(2, path), every_s=0.02) as meter:
        time.sleep(0.5)
    assert meter.use().gpu_busy_share == pytest.approx(0.75)
    assert meter.use().energy_wh == pytest.approx((180 + 300) * 0.5 / 3600, rel=0.2)
    assert meter.use().held_s == pytest.approx(0.5, abs=0.2)
