"""Where hosts share no disk, the runs of one that nothing is heard of go on elsewhere, once, and it gives them up."""

import pytest

from gpu_pools.names import host_name
from gpu_pools.prefect_client import WAITING
from gpu_pools.worker.monitor.lost_hosts import LostHosts
from tasks.base.errors import ConfigError
from tasks.store.setting import LOST_AFTER, SHARED_DISK

ME = host_name()


@pytest.fixture
def apart(monkeypatch, host):
    """Let the hosts share no disk."""
    monkeypatch.setenv(SHARED_DISK, "no")
    monkeypatch.setenv(LOST_AFTER, "60s")
    host.restart()


def heard_of(prefect, **online: bool) -> None:
    prefect.workers = [{"name": name, "status": "ONLINE" if on else "OFFLINE"} for name, on in online.items()]


def ticks(host, seconds: float) -> None:
    """Let the monitor look often enough for every duty, over some time."""
    until = host.now + seconds
    while host.now < until:
        host.now += 5
        host.tick()


def test_the_runs_of_a_lost_host_wait_again_after_the_time_that_was_set(prefect, host, apart):
    run_id = prefect.add_run(infrastructure_pid="zulu.lab:/srv/home:77")
    heard_of(prefect, **{ME: True, "zulu": False})
    ticks(host, 40)
    assert prefect.state(run_id)[0] == "RUNNING"
    ticks(host, 60)
    assert prefect.state(run_id)[:2] == ("SCHEDULED", WAITING)
    assert "attempt 2 of 4" in prefect.state(run_id)[2]
    assert not host.monitor.busy


def test_a_host_that_is_heard_of_again_keeps_its_runs(prefect, host, apart):
    run_id = prefect.add_run(infrastructure_pid="zulu:/srv/home:77")
    for online in (False, True, False):
        heard_of(prefect, **{ME: True, "zulu": online})
        ticks(host, 40)
    assert prefect.state(run_id)[0] == "RUNNING"


def test_a_cancelled_run_of_a_lost_host_is_cancelled(prefect, host, apart):
    run_id = prefect.add_run("CANCELLING", infrastructure_pid="zulu:/srv/home:77")
    heard_of(prefect, **{ME: True, "zulu": False})
    ticks(host, 120)
    assert prefect.state(run_id)[0] == "CANCELLED"


def test_one_host_alone_takes_over_and_none_where_all_share_a_disk(prefect, client, monkeypatch):
    now = [0.0]
    heard_of(prefect, **{"0-first": True, ME: True, "zulu": False})
    for disk, first, lost in (("no", True, set()), ("no", False, {"zulu"}), ("yes", False, set())):
        monkeypatch.setenv(SHARED_DISK, disk)
        heard_of(prefect, **{"0-first": first, ME: True, "zulu": False})
        found = LostHosts(client, lambda: now[0])
        found.look()
        now[0] += 1000
        assert found.look() & {"zulu"} == lost


def test_a_host_that_was_taken_for_lost_ends_what_goes_on_elsewhere(prefect, host, apart):
    run_id, own = prefect.add_run(), prefect.add_run()
    process, other = host.start(run_id, slot=True), host.start(own)
    ticks(host, 30)
    assert process.poll() is None
    prefect.runs[run_id]["infrastructure_pid"] = "zulu:/srv/home:5"
    ticks(host, 10)
    assert process.wait(10) < 0
    assert other.poll() is None
    assert host.monitor.get(run_id) is None
    assert prefect.state(run_id)[0] == "RUNNING"  # nothing is said of a run that is another host's


def test_a_run_that_was_put_back_while_its_process_lived_starts_anew(prefect, host, apart):
    run_id = prefect.add_run()
    process = host.start(run_id)
    ticks(host, 10)
    prefect.runs[run_id]["state"] |= {"type": "SCHEDULED", "name": WAITING}
    ticks(host, 10)
    assert process.wait(10) < 0
    assert prefect.state(run_id)[:2] == ("SCHEDULED", WAITING)


def test_a_time_that_is_none_is_refused_when_the_worker_starts(client, monkeypatch):
    monkeypatch.setenv(LOST_AFTER, "soon")
    with pytest.raises(ConfigError, match="found TRAINYARD_HOST_LOST_AFTER='soon'"):
        LostHosts(client, lambda: 0.0)
