"""The worker with a real server, real processes and simulated GPUs: what a person sees, and what dies."""

import os
import signal
import subprocess
import sys
import time

import pytest
from prefect.client.orchestration import SyncPrefectClient

from deployments.api import Api
from deployments.runs.resume import put_back
from deployments.services.service import free_port
from gpu_pools.names import host_name
from tasks.base.errors import ConfigError
from tasks.base.processes import identity
from tests.chaos.runs import CALLS
from tests.chaos.yard import RUNS, Yard, yard

pytestmark = [pytest.mark.yard, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with yard(tmp_path_factory.mktemp("yard"), free_port()) as running:
        yield running


def sees(made: Yard, run_id: str) -> str:
    return made.of(run_id)[-1]["visible"]


def test_pinned_and_free_runs_get_a_gpu_each_and_see_no_other(made):
    pinned, free = made.hold("cuda:1.training"), made.hold("cuda.training")
    for run in (pinned, free):
        made.until(made.is_(run, "COMPLETED"), 90, "both run")
    assert sees(made, pinned) == "GPU-simulated-1"
    assert sees(made, free).startswith("GPU-simulated-")


def test_a_run_on_the_cpu_sees_no_gpu(made):
    run = made.hold("cpu.inference", 0.1)
    made.until(made.is_(run, "COMPLETED"), 90, "it runs")
    assert sees(made, run) == ""


def test_a_waiting_run_says_why_and_starts_after_the_holder(made):
    first = made.hold("cuda:0.training", 6, owner="anna@boxa")
    made.until(made.begun(first), 90, "the first begins")
    second = made.hold("cuda:0.training", 0.2)
    made.until(lambda: made.state(second)["name"] == "Waiting", 90, "the second says why")
    assert "of anna@boxa since" in made.state(second)["message"]
    made.until(made.is_(second, "COMPLETED"), 90, "the second runs")
    assert made.of(second)[0]["begin"] > made.of(first)[0]["last"]


def test_training_and_inference_do_not_share_slots(made):
    training = made.hold("cuda:0.training", 30)
    made.until(made.begun(training), 90, "the training begins")
    runs = [made.hold("cuda:0.inference", 2) for _ in range(4)]
    for run in [training, *runs]:
        made.until(made.is_(run, "COMPLETED"), 90, "all run")
    spans = [made.of(run)[0] for run in runs]
    begun_during = [span for span in spans if span["begin"] < made.of(training)[0]["last"]]
    assert begun_during
    at_once = max(sum(o["begin"] <= s["begin"] <= o["last"] for o in spans) for s in spans)
    assert at_once <= 3


def test_refuse_cancels_with_the_sentence(made):
    holder = made.hold("cuda:0.training", 8, owner="ben@boxb")
    made.until(made.begun(holder), 90, "the holder begins")
    refused = made.hold("cuda:0.training", when_busy="refuse")
    took = made.until(made.is_(refused, "CANCELLED"), 90, "it is refused")
    assert "of ben@boxb" in made.state(refused)["message"]
    assert made.of(refused) == []
    print(f"refused after {took:.1f} s")
    made.until(made.is_(holder, "COMPLETED"), 90, "the holder ends")


@pytest.mark.parametrize("queue", ["cuda:7.training", "nohost.cuda:0.training", "nonsense"])
def test_a_device_that_is_not_there_fails_the_run_at_once(made, queue):
    run = made.hold(queue)
    made.until(made.is_(run, "FAILED"), 90, "it fails")
    assert "found" in made.state(run)["message"]
    assert any(word in made.state(run)["message"] for word in ("have: ", "need "))


def test_cancel_ends_the_whole_tree_and_frees_the_slot(made):
    run = made.hold("cuda:0.training", 90, child=True)
    made.until(made.begun(run), 90, "it begins")
    pid = made.pid(run)
    made.until(lambda: made.marked(run), 10, "its child lives")
    made.cancel(run)
    took = made.until(made.is_(run, "CANCELLED"), 90, "it is cancelled")
    assert not os.path.exists(f"/proc/{pid}")
    assert made.marked(run) == []
    after = made.hold("cuda:0.training", 0.1)
    made.until(made.is_(after, "COMPLETED"), 90, "the slot is free")
    assert not (made.home / "runs" / run / "tmp").exists()
    print(f"cancelled after {took:.1f} s")


def test_what_a_killed_run_had_started_is_gone_before_it_starts_again(made):
    run = made.hold("cuda:0.training", 5, child=True)
    made.until(made.begun(run), 90, "it begins")
    made.until(lambda: made.marked(run), 10, "its child lives")
    first = made.marked(run)
    os.kill(made.pid(run), signal.SIGKILL)
    made.until(made.begun(run, 2), 90, "it is started again")
    assert not [pid for pid in first if identity(pid)]
    made.until(made.is_(run, "COMPLETED"), 90, "it ends")
    made.until(lambda: not made.marked(run), 10, "nothing is left of it")


@pytest.mark.parametrize("how", ["deleted", "CANCELLED"])
def test_a_run_that_is_over_for_the_server_ends_and_frees_its_slot(made, how):
    run = made.hold("cuda:0.training", 90)
    made.until(made.begun(run), 90, "it begins")
    pid = made.pid(run)
    if how == "deleted":
        made.ask("DELETE", f"/flow_runs/{run}", None)
    else:
        made.post(f"/flow_runs/{run}/set_state", {"state": {"type": how}, "force": True})
    made.until(lambda: not os.path.exists(f"/proc/{pid}"), 20, "its process is gone")
    after = made.hold("cuda:0.training", 0.1)
    made.until(made.is_(after, "COMPLETED"), 30, "the slot is free")


def test_a_run_deleted_while_no_worker_looks_does_not_stop_the_next_worker(made):
    run = made.hold("cuda:0.training", 90)
    made.until(made.begun(run), 90, "it begins")
    pid = made.pid(run)
    made.kill(made.workers["one"])
    made.ask("DELETE", f"/flow_runs/{run}", None)
    made.start_worker("one")
    after = made.hold("cuda:0.training", 0.1)
    made.until(made.is_(after, "COMPLETED"), 60, "the slot is free")
    assert identity(pid) is None


@pytest.mark.parametrize("harm", ["file", "attempt"])
def test_a_run_whose_folder_is_damaged_does_not_keep_others_from_starting(made, harm):
    made.set_queue("cuda:0.training", is_paused=True)
    time.sleep(4)  # the worker reads its queues every three
    run, after = made.hold("cuda:0.training", 0.1), made.hold("cuda:0.training", 0.1)
    folder = made.home / "runs" / run
    folder.parent.mkdir(exist_ok=True)
    if harm == "file":
        folder.write_text("no folder")
    else:
        folder.mkdir(exist_ok=True)
        (folder / "attempt").write_text("")
    made.set_queue("cuda:0.training", is_paused=False)
    made.until(made.is_(after, "COMPLETED"), 60, "the other one runs")
    made.until(made.is_(run, "FAILED" if harm == "file" else "COMPLETED"), 60, "it has its end")
    assert made.workers["one"].poll() is None
    if harm == "file":
        assert "found a file where a folder is needed" in made.state(run)["message"]
        folder.unlink()


def test_a_device_is_found_by_the_name_of_its_host(made):
    run = made.hold(f"{host_name()}.cuda:1.training", 0.1)
    made.until(made.is_(run, "COMPLETED"), 90, "it runs")
    assert made.of(run)[0]["visible"] == "GPU-simulated-1"
    queues = {row["name"]: row["concurrency_limit"] for row in made.post("/work_pools/gpu/queues/filter", {})}
    assert queues[f"{host_name()}.cuda:1.training"] is None


def test_a_device_that_nobody_has_fails_the_run_though_another_host_is_away(made):
    beat = {"name": "boxb", "heartbeat_interval_seconds": 1}
    made.ask("POST", "/work_pools/gpu/workers/heartbeat", beat)
    made.post("/work_pools/gpu/queues", {"name": "boxb.cuda:5.training"})
    time.sleep(31)  # the worker asks for the others every thirty
    away, missing = made.hold("cuda:5.training"), made.hold("cuda:7.training")
    made.until(made.is_(missing, "FAILED"), 30, "nobody has it")
    made.until(lambda: "no worker is online" in (made.state(away)["message"] or ""), 30, "it says for whom it waits")
    made.cancel(away)


def test_a_paused_pool_starts_nothing(made):
    made.ask("PATCH", "/work_pools/gpu", {"is_paused": True})
    time.sleep(4)  # the worker looks every three
    run = made.hold("cuda:1.training", 0.1)
    made.until(lambda: made.state(run)["message"] == "work pool gpu is paused", 30, "it says so")
    made.ask("PATCH", "/work_pools/gpu", {"is_paused": False})
    made.until(made.is_(run, "COMPLETED"), 30, "it runs")


def test_a_run_that_waits_is_cancelled_at_once(made):
    holder = made.hold("cuda:0.training", 4)
    made.until(made.begun(holder), 90, "the holder begins")
    waits = made.hold("cuda:0.training")
    made.cancel(waits)
    made.until(made.is_(waits, "CANCELLED"), 10, "it is cancelled")
    made.until(made.is_(holder, "COMPLETED"), 90, "the holder ends")
    assert made.of(waits) == []


def test_a_run_that_waits_for_its_next_attempt_is_cancelled(made):
    run = made.hold("cuda:0.training", 60)
    made.until(made.begun(run), 90, "it begins")
    made.set_queue("cuda:0.training", is_paused=True)
    time.sleep(4)  # until the worker has seen it: it looks every three seconds
    try:
        os.kill(made.pid(run), signal.SIGKILL)
        made.until(made.is_(run, "SCHEDULED"), 30, "it is to begin again")
        made.cancel(run)
        made.until(made.is_(run, "CANCELLED"), 10, "it is cancelled")
    finally:
        made.set_queue("cuda:0.training", is_paused=False)
    time.sleep(3)
    assert made.state(run)["type"] == "CANCELLED"
    assert len(made.of(run)) == 1


def test_a_time_limit_stops_the_run_and_says_so(made):
    run = made.hold("cuda:0.training", 90, time_limit="2s")
    made.until(made.is_(run, "FAILED"), 90, "it is stopped")
    state = made.state(run)
    assert (state["name"], state["message"]) == (
        "TimedOut",
        "stopped after 2 s, its time limit; what it saved is kept",
    )


@pytest.mark.parametrize("kind", CALLS)
def test_a_run_ends_as_it_was_asked_to_inside_any_library(made, kind):
    made.deploy("call", f"{RUNS}.call", "cuda.training")
    parameters = {"folder": str(made.home), "kind": kind}
    late, cancelled = (
        made.submit("call", f"cuda:{n}.training", parameters, **limit)
        for n, limit in ((0, {"time_limit": "8s"}), (1, {}))
    )
    made.until(made.begun(cancelled, 1), 90, "it calls")
    time.sleep(1)
    made.cancel(cancelled)
    made.until(made.is_(cancelled, "CANCELLED", "FAILED", "CRASHED"), 60, "it is cancelled")
    made.until(made.is_(late, "CANCELLED", "FAILED", "CRASHED"), 60, "its time is over")
    assert [(made.state(run)["type"], made.state(run)["name"]) for run in (cancelled, late)] == [
        ("CANCELLED", "Cancelled"),
        ("FAILED", "TimedOut"),  # Prefect has no type of its own for it
    ]
    assert not {"Failed", "Crashed"} & {*made.told(cancelled), *made.told(late)}


def test_a_run_that_is_out_of_time_goes_on_with_another_limit(made):
    run = made.hold("cuda:0.training", 4, time_limit="2s")
    made.until(made.is_(run, "FAILED"), 90, "its time is over")
    with SyncPrefectClient(made.api) as client:
        api = Api(client, made.api)
        assert "with 60s from its start on" in put_back(api, api.call("GET", f"/flow_runs/{run}"), "60s")
        made.until(made.is_(run, "COMPLETED", "CRASHED"), 90, "it is done")
        with pytest.raises(ConfigError, match="is completed"):
            put_back(api, api.call("GET", f"/flow_runs/{run}"), None)
    assert made.state(run)["type"] == "COMPLETED"


def test_the_time_a_pipeline_waits_counts_for_no_limit(made):
    run = made.hold("cpu.pipeline", 4, time_limit="1s")
    made.until(made.is_(run, "COMPLETED", "FAILED"), 90, "it ends")
    assert made.state(run)["type"] == "COMPLETED"


def test_a_run_that_says_nothing_has_the_time_limit_of_its_deployment(made):
    made.deploy("brief", f"{RUNS}.hold", "cuda.training", time_limit="1s")
    run = made.submit("brief", "cuda:0.training", {"folder": str(made.home), "seconds": 90})
    made.until(made.is_(run, "FAILED"), 90, "it is stopped")
    assert made.state(run)["message"].startswith("stopped after 1 s, its time limit")


def test_a_killed_run_is_tried_again_and_given_up_after_three_times(made):
    run = made.hold("cuda:0.training", 60)
    for attempt in range(1, 5):
        made.until(made.begun(run, attempt), 90, f"attempt {attempt} begins")
        os.kill(made.pid(run), signal.SIGKILL)
    made.until(made.is_(run, "CRASHED"), 90, "it is given up")
    assert made.state(run)["message"].startswith("given up after 4 attempts: the process was killed by SIGKILL")
    assert len(made.of(run)) == 4


def test_a_failed_run_stays_failed(made):
    run = made.submit("fail", "cuda:0.training", {})
    made.until(made.is_(run, "FAILED"), 90, "it fails")
    assert "found nothing, need something" in made.state(run)["message"]


def test_a_flow_that_cannot_be_loaded_fails_at_once_and_says_why(made):
    made.deploy("gone", f"{RUNS}.gone", "cpu.training")
    run = made.submit("gone", "cpu.training", {})
    made.until(made.is_(run, "FAILED"), 90, "it fails")
    assert "cannot load the flow" in made.state(run)["message"]


def test_code_that_is_no_flow_of_the_yard_is_not_started(made):
    mark = made.home / "mark"
    file = made.home / "theirs.py"
    file.write_text(f"from prefect import flow\nopen({str(mark)!r}, 'w')\n@flow\ndef theirs(): pass\n")
    step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}
    for number, (entrypoint, more) in enumerate(
        [(f"{file}:theirs", {}), ("os.system", {}), ("flows.stages.run_deployment", {}), (None, {"pull_steps": [step]})]
    ):
        made.deploy(f"theirs-{number}", entrypoint, "cpu.training", **more)
        run = made.submit(f"theirs-{number}", "cpu.training", {})
        made.until(made.is_(run, "FAILED"), 90, "it is refused")
        assert made.state(run)["message"].startswith(f"found a deployment of {entrypoint or 'no flow'!r}, the worker")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "TRAINYARD_ALLOWED_ROOTS", "PREFECT_API_URL"])
def test_a_run_cannot_set_what_decides_on_its_code_or_its_reach(made, name):
    run = made.hold("cpu.training", 0.1, env={name: "/tmp/x", "OMP_NUM_THREADS": "2"})
    made.until(made.is_(run, "FAILED"), 90, "it is refused")
    assert made.state(run)["message"].startswith(f"env: found {name}, a run may set CUBLAS_WORKSPACE_CONFIG, ")
    assert made.of(run) == []


def test_a_run_may_set_how_many_threads_it_computes_with(made):
    run = made.hold("cpu.training", 0.1, env={"OMP_NUM_THREADS": "2"})
    made.until(made.is_(run, "COMPLETED"), 90, "it runs")


def test_a_limit_changed_in_prefect_counts_at_once(made):
    made.set_queue("cuda:0.training", concurrency_limit=2)
    runs = [made.hold("cuda:0.training", 6) for _ in range(2)]
    made.until(lambda: all(made.of(run) for run in runs), 90, "both begin")
    one, two = (made.of(run)[0] for run in runs)
    assert one["slot"] != two["slot"]
    made.set_queue("cuda:0.training", concurrency_limit=1)
    for run in runs:
        made.until(made.is_(run, "COMPLETED"), 90, "both end")


def test_a_paused_queue_starts_nothing(made):
    made.set_queue("cuda:1.training", is_paused=True)
    time.sleep(4)  # the worker reads its queues every three
    run = made.hold("cuda:1.training", 0.1)
    made.until(lambda: "paused" in (made.state(run)["message"] or ""), 90, "it says so")
    made.set_queue("cuda:1.training", is_paused=False)
    made.until(made.is_(run, "COMPLETED"), 90, "it runs")


def test_priority_decides_who_is_next(made):
    holder = made.hold("cuda:1.training", 5)
    made.until(made.begun(holder), 90, "the holder begins")
    later = made.hold("cuda:1.training", 0.1, priority=9)
    first = made.hold("cuda:1.training", 0.1, priority=1)
    for run in (later, first):
        made.until(made.is_(run, "COMPLETED"), 90, "both run")
    assert made.of(first)[0]["begin"] < made.of(later)[0]["begin"]


def test_a_run_outlives_its_worker_and_keeps_its_slot(made):
    run = made.hold("cuda:0.training", 12)
    made.until(made.begun(run), 90, "it begins")
    made.kill(made.workers["one"])
    after = made.hold("cuda:0.training", 0.1)
    made.start_worker("one")
    made.until(made.is_(run, "COMPLETED"), 90, "the orphan ends well")
    made.until(made.is_(after, "COMPLETED"), 90, "the next one runs")
    assert len(made.of(run)) == 1
    assert made.of(after)[0]["begin"] > made.of(run)[0]["last"]


def test_a_run_that_dies_without_a_worker_is_tried_again(made):
    run = made.hold("cuda:0.training", 5)
    made.until(made.begun(run), 90, "it begins")
    made.kill(made.workers["one"])
    os.kill(made.pid(run), signal.SIGKILL)
    made.start_worker("one")
    made.until(made.begun(run, 2), 90, "it is started again")
    made.until(made.is_(run, "COMPLETED"), 90, "it ends well")


def test_a_second_worker_takes_over_from_a_dead_one(made):
    run = made.hold("cuda:0.training", 8)
    made.until(made.begun(run), 90, "it begins")
    made.start_worker("two")
    made.until(lambda: made.serves("two"), 90, "the second worker serves")
    made.kill(made.workers["one"])
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 90, "the second worker cancels it")
    made.start_worker("one")
    made.until(lambda: made.serves("one"), 90, "the first worker is back")
    made.workers["two"].send_signal(signal.SIGTERM)
    assert made.workers.pop("two").wait(60) == 0


def test_runs_survive_the_servers_death(made):
    run, waits = made.hold("cuda:0.training", 6), made.hold("cuda:0.training", 0.1)
    made.until(made.begun(run), 90, "it begins")
    made.kill(made.server)
    time.sleep(2)
    made.start_server()
    for found in (run, waits):
        made.until(made.is_(found, "COMPLETED"), 90, "both end well")
    assert len(made.of(run)) == 1


def test_sigterm_lets_runs_finish_and_a_second_one_puts_them_back(made):
    worker, run = made.workers["one"], made.hold("cuda:0.training", 4)
    made.until(made.begun(run), 90, "it begins")
    worker.send_signal(signal.SIGTERM)
    after = made.hold("cuda:1.training", 0.1)
    assert worker.wait(60) == 0
    assert made.state(run)["type"] == "COMPLETED"
    assert made.state(after)["type"] == "SCHEDULED"
    worker = made.start_worker("one")
    inference = made.hold("cuda:0.inference", 30)
    made.until(made.begun(inference), 90, "it begins")
    worker.send_signal(signal.SIGUSR1)
    assert worker.wait(60) == 0
    assert made.state(inference)["message"] == "starts again, from its checkpoint if it has one: the worker was stopped"
    worker = made.start_worker("one")
    made.until(made.begun(inference, 2), 90, "it is started again")
    made.cancel(inference)
    made.until(made.is_(inference, "CANCELLED"), 90, "it is cancelled")
    made.until(made.is_(after, "COMPLETED"), 90, "what waited meanwhile has run")
    training = made.hold("cuda:0.training", 60)
    made.until(made.begun(training), 90, "it begins")
    worker.send_signal(signal.SIGUSR1)
    time.sleep(2)
    made.cancel(training)  # it has two minutes for its checkpoint, but not any more
    made.until(made.is_(training, "CANCELLED"), 12, "it is cancelled")
    assert worker.wait(60) == 0
    made.start_worker("one")
    last = made.hold("cuda:0.training", 0.1)
    made.until(made.is_(last, "COMPLETED"), 90, "the next worker works")


def test_a_worker_of_the_same_name_is_refused(made):
    made.until(lambda: made.serves("one"), 90, "the worker serves")
    argv = [sys.executable, "-m", "gpu_pools.worker.serve", "--name", "one"]
    second = subprocess.run(argv, env=made.env, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert "found a running worker called 'one'" in second.stderr
