"""The worker's turn: what it does while the server is away, and what when it is to stop."""

import logging
import os

from gpu_pools.slots.lease import holders
from gpu_pools.worker.dispatch import TICK_S, look_every_s
from tests.gpu_pools.worker.monitored import new_entry, take_slot


def test_a_server_that_is_away_is_complained_of_once(prefect, dispatcher, caplog):
    caplog.set_level(logging.INFO, "trainyard.worker")
    prefect.away = True
    for _ in range(3):
        dispatcher.tick()
    assert caplog.text.count("Prefect's server does not answer") == 1
    prefect.away = False
    dispatcher.tick()
    dispatcher.tick()
    assert caplog.text.count("all goes on") == 1


def test_a_heartbeat_that_was_not_heard_is_sent_again(prefect, dispatcher, host):
    beat = ("POST", "/work_pools/gpu/workers/heartbeat")
    dispatcher.tick()
    dispatcher.tick()
    assert prefect.requests.count(beat) == 1
    host.now += 15
    dispatcher.tick()
    assert prefect.requests.count(beat) == 2


def test_a_worker_that_drains_starts_nothing_and_puts_its_pipelines_back(prefect, dispatcher):
    waits = prefect.add_run("SCHEDULED")
    pipeline, training = (prefect.add_run() for _ in range(2))
    for run_id, queue in ((pipeline, "cpu.pipeline"), (training, "cpu.training")):
        dispatcher._monitor.add(new_entry(run_id, queue), None, None)
    dispatcher._kept.keep("died", ("cpu",), take_slot("died"))
    dispatcher.drain()
    assert {entry.run_id: entry.ending for entry in dispatcher.active} == {pipeline: "stop", training: None}
    dispatcher.tick()
    assert (prefect.state(waits)[1], holders()) == ("Scheduled", [])


def test_a_worker_that_stops_puts_all_of_its_runs_back(prefect, dispatcher):
    run_id = prefect.add_run()
    dispatcher._monitor.add(new_entry(run_id), None, None)
    dispatcher.stop_runs()
    assert [entry.ending for entry in dispatcher.active] == ["stop"]
    dispatcher.tick()
    assert prefect.state(run_id)[1] == "Waiting"
    assert not dispatcher.busy


def test_a_run_that_shares_its_gpu_says_so_once(prefect, dispatcher, host, monkeypatch):
    run_id = prefect.add_run()
    process = host.start(run_id)
    entry = new_entry(run_id, "cuda:0.training").but(pid=process.pid, tag="cuda:0")
    dispatcher._monitor.add(entry, None, process)
    monkeypatch.setattr(
        "gpu_pools.placement.host_state.HostState.intruders", lambda _: {run_id: [(f"{os.getpid()} (x) of ben", "")]}
    )
    dispatcher.tick()
    host.now += 10
    dispatcher.tick()
    assert prefect.runs[run_id]["tags"] == [f"GPU shared with process {os.getpid()} (x) of ben"]
    assert prefect.requests.count(("GET", f"/flow_runs/{run_id}")) == 1


def test_a_hundred_hosts_ask_together_no_more_often_than_they_must():
    assert [look_every_s(n, busy=False) for n in (1, 8)] == [0.0, 0.0]
    assert [look_every_s(n, busy=False) + TICK_S / 2 for n in (16, 32, 100)] == [1.0, 2.0, 2.0]
    assert [look_every_s(n, busy=True) + TICK_S / 2 for n in (16, 32, 100)] == [1.0, 1.0, 1.0]
