"""What Prometheus scrapes from a worker, read by its own parser."""

import http.client
import json
import socket
import time
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.services.service import free_port
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.probe import get_probe
from gpu_pools.slots.ledger import Ledger
from gpu_pools.slots.slot_files import SlotProgress
from gpu_pools.watching.exporter import Exporter, metrics_port
from gpu_pools.watching.families import NAMES
from gpu_pools.worker.dispatch import Dispatcher
from tasks.base.errors import ConfigError
from tests.gpu_pools.worker.conftest import host
from tests.gpu_pools.worker.monitored import new_entry, take_slot

__all__ = ["host"]

FLOW = "flows.classification.train_classifier"


@pytest.fixture
def worker(client, host, monkeypatch, tmp_path):
    """Yield a worker of the host `boxa` with two simulated GPUs, which somebody watches."""
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    monkeypatch.setenv("TRAINYARD_SIMULATED_STATE", str(tmp_path / "gpus.json"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("gpu_pools.process.warm_process.WarmProcess.refill", lambda _: None)
    state = HostState("boxa", get_probe())
    found = Dispatcher("boxa", client, state, Ledger("boxa"), clock=lambda: host.now, watched=True)
    yield found
    found.close()


@contextmanager
def exporting(*workers):
    """Serve what workers have published; yield how to ask (path, headers -> status, text)."""
    port = free_port()
    exporter = Exporter(port, get_probe())
    exporter.start()
    for one in workers:
        exporter.publish(one.state())

    def ask(path="/metrics", **headers):
        for _ in range(200):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", path, headers={"Host": f"localhost:{port}"} | headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except ConnectionRefusedError:
                time.sleep(0.05)
        raise AssertionError("nobody serves the metrics")

    ask.port, ask.exporter = port, exporter
    try:
        yield ask
    finally:
        exporter.close()


class Samples(dict):
    """(name, the values of the labels but the host's) -> value; asked for by them in any order."""

    def __init__(self, text):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                assert labels.pop("host") == "boxa"
                key = (sample.name, frozenset(labels.values()))
                assert key not in self, f"{sample} is there twice"
                self[key] = sample.value

    def __call__(self, name, *labels):
        return self[f"trainyard_{name}", frozenset(labels)]

    def named(self, part):
        return {labels: value for (name, labels), value in self.items() if part in name}


def scrape(ask):
    status, text = ask()
    assert status == 200, text
    return Samples(text)


def test_a_scrape_tells_of_queues_slots_leases_and_devices(prefect, worker, host, tmp_path):
    (tmp_path / "gpus.json").write_text(json.dumps({"cuda:0": {"memory_used_mib": 900, "utilisation_percent": 50}}))
    prefect.add_run("SCHEDULED", "cuda:1.training")
    prefect.queues.append({"name": "cuda:1.training", "concurrency_limit": 1, "is_paused": True})
    with take_slot("trains") as lease:
        lease.record(progress=SlotProgress(3, 10, 70.0, time.time()))
        worker.tick()
        with exporting(worker) as ask:
            found = scrape(ask)
    assert {name for name, *_ in found} <= NAMES
    assert found("queue_runs", "cuda:1.training", "training") == 1
    assert found("queue_oldest_age_seconds", "cuda:1.training", "training") > 3600
    assert found("queue_free_slots", "cuda:1.training", "training") == 0  # it is paused
    assert found("slots", "cuda:0", "training") == 1
    assert found("slots_free", "cuda:0", "training") == 1
    assert found("slots_free", "cuda:1", "training") == 0
    assert (found("slots_held", "cpu", "training"), found("slots_free", "cpu", "training")) == (1, 1)
    slot = ("cpu", "training", "0", "trains", "run")
    assert 0 <= found("lease_age_seconds", *slot, "anna@boxa") < 60
    assert found("run_epochs_done", *slot, "epoch") == 3
    assert found("run_epoch_seconds", *slot, "epoch") == 10
    assert 0 < found("run_remaining_seconds", *slot, "epoch") <= 70
    assert found("gpu_memory_used_bytes", "cuda:0") == 900 * 2**20
    assert found("gpu_utilisation_ratio", "cuda:0") == 0.5
    assert found("gpu_info", "cuda:0", "GPU-simulated-0", "simulated GPU 0") == 1
    assert found("disk_free_bytes") > 0
    assert found("prefect_up", "boxa") == 1


def test_what_a_device_does_not_tell_is_missing_and_not_zero(worker, tmp_path):
    state = {"cuda:0": {"utilisation_percent": None}, "cuda:1": {"temperature_c": 61}}
    (tmp_path / "gpus.json").write_text(json.dumps(state))
    worker.tick()
    with exporting(worker) as ask:
        found = scrape(ask)
    assert found.named("gpu_utilisation") == {frozenset({"cuda:1"}): 0}
    assert found.named("gpu_power").keys() == {frozenset({"cuda:1"})}
    assert found.named("gpu_temperature") == {frozenset({"cuda:1"}): 61}


def test_a_gpu_that_is_lost_is_down_and_has_no_free_slot(worker, monkeypatch):
    worker.tick()
    with exporting(worker) as ask:
        monkeypatch.setattr("gpu_pools.placement.probe.SimulatedProbe.devices", lambda probe: probe._devices[:1])
        found = scrape(ask)
    assert (found("gpu_up", "cuda:0"), found("gpu_up", "cuda:1")) == (1, 0)
    assert found("slots_free", "cuda:1", "training") == 0
    assert found.named("gpu_memory_used").keys() == {frozenset({"cuda:0"})}


def test_prefect_that_is_away_takes_what_waits_along_and_nothing_else(prefect, worker, host):
    prefect.add_run("SCHEDULED", "cuda:0.training", name="first")
    prefect.queues.append({"name": "cuda:0.training", "concurrency_limit": 1, "is_paused": True})
    worker.tick()
    prefect.away = True
    with exporting(worker) as ask:
        n_asked = len(prefect.requests)
        assert scrape(ask)("queue_runs", "cuda:0.training", "training") == 1
        assert len(prefect.requests) == n_asked  # a scrape asks nobody
    host.now += 61
    worker.tick()
    with exporting(worker) as ask:
        found = scrape(ask)
    assert found("prefect_up", "boxa") == 0
    assert not found.named("queue")
    assert found("slots_free", "cpu", "training") == 2


def test_locks_that_cannot_be_read_are_told_and_the_rest_is_there(worker, monkeypatch, tmp_path):
    worker.tick()
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with exporting(worker) as ask:
        found = scrape(ask)
    assert found("reading_up", "leases") == 0
    assert found("reading_up", "disk") == 1
    assert found("gpu_up", "cuda:0") == 1
    assert not found.named("slots")


def test_the_gap_is_from_a_free_slot_with_a_run_that_is_due_to_its_start(prefect, worker, host, monkeypatch):
    first, lease = prefect.add_run(), take_slot("first")
    worker._monitor.add(new_entry(first), lease, host.start(first, ("true",)))
    process = worker._monitor._runs[first].process
    process.wait(10)
    prefect.set_state(first, "COMPLETED")
    host.now += 5
    worker.tick()  # sees that it has exited
    second = prefect.add_run("SCHEDULED", "cpu.training", deployment_id=prefect.add_deployment(FLOW))

    def start(starter, run, uuids, queues, team):
        host.now += 3
        starter._monitor.add(new_entry(run.id), take_slot(run.id), None)
        return True

    monkeypatch.setattr("gpu_pools.worker.starter.Starter.start", start)
    host.now += 1
    worker.tick()
    assert worker._monitor.get(second) is not None
    with exporting(worker) as ask:
        found = scrape(ask)
    gap = ("boxa", "cpu", "training")
    assert found("dispatch_gap_seconds_count", *gap) == 1
    assert found("dispatch_gap_seconds_sum", *gap) == pytest.approx(4)
    assert found("dispatch_gap_seconds_bucket", *gap, "2.0") == 0
    assert found("dispatch_gap_seconds_bucket", *gap, "5.0") == 1
    worker._monitor._runs[second].release_slot()


def test_before_the_first_turn_and_at_other_addresses_there_is_nothing(worker):
    with exporting() as ask:
        assert ask() == (200, "")
        assert ask("/")[0] == 404
        assert ask("/metrics?x=1")[0] == 200


def test_pages_of_other_sites_are_refused(worker):
    with exporting() as ask:
        status, said = ask(Host="other-site.invalid")
        assert (status, "found the host 'other-site.invalid'" in said) == (403, True)
        assert ask(Origin="http://other-site.invalid")[0] == 403


def test_a_client_that_says_nothing_keeps_nobody_waiting(worker):
    with exporting() as ask:
        assert ask()[0] == 200
        silent = [socket.create_connection(("127.0.0.1", ask.port)) for _ in range(3)]
        assert ask()[0] == 200
        for one in silent:
            one.close()


def test_a_port_that_is_taken_is_told_and_tried_again(worker, monkeypatch, caplog):
    monkeypatch.setattr("gpu_pools.watching.exporter._AGAIN_S", 0.1)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    exporter = Exporter(port, get_probe())
    exporter.start()
    while "no metrics at" not in caplog.text:
        time.sleep(0.05)
    taken.close()
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    else:
        raise AssertionError("it was not tried again")
    exporter.close()


def test_each_worker_of_a_host_has_its_own_port(monkeypatch):
    monkeypatch.delenv("TRAINYARD_METRICS_PORT", raising=False)
    assert metrics_port("boxa") is None
    monkeypatch.setenv("TRAINYARD_METRICS_PORT", "9469")
    assert [metrics_port(name) for name in ("boxa", "boxa/2", "boxa/3", "boxa/night")] == [9469, 9470, 9471, 9469]
    for wrong in ("on", "0", "70000", "-1"):
        monkeypatch.setenv("TRAINYARD_METRICS_PORT", wrong)
        with pytest.raises(ConfigError, match="need a port, 1 to 65535"):
            metrics_port("boxa")
