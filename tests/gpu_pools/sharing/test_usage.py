"""Who had which device for how long, as a real Prefect server has it."""

import json
import os
import threading
import time
from datetime import UTC, datetime

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled

from gpu_pools.names import FROM_PAGE
from gpu_pools.placement.queues import POOL
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.usage import UsageReader, read_uses
from gpu_pools.slots.lease import Holder, acquire
from gpu_pools.slots.local_slot import on_device
from tests.gpu_pools.real_pool import add_run

pytestmark = pytest.mark.usefixtures("on_a_real_server")


@pytest.fixture
def api():
    with get_client(sync_client=True) as client:
        yield client


def add(api, queue, *states, **variables):
    """Add a run of the pool, go through its states, and return its id."""
    run_id = add_run(api, queue, **variables)
    for state in states:
        if isinstance(state, float):
            time.sleep(state)
        else:
            api.set_flow_run_state(run_id, state, force=True)
    return run_id


def one(run_id, since=0.0):
    return next(use for use in read_uses(PoolClient(), since) if use.run_id == run_id)


def test_a_run_counts_what_it_ran_in_all_its_attempts_and_not_its_waiting(api):
    begun = time.time()
    states = (Pending(), Running(), 0.5, Scheduled(), 1.5, Running(), 0.5, Completed())
    run_id = add(api, "cuda.training", *states, owner="anna@boxa")
    PoolClient().set_device(run_id, "boxa", "cuda:1")
    use = one(run_id)
    assert (use.owner, use.flow, use.deployment, use.device, use.host, use.kind) == (
        *("anna@boxa", "train", "nightly", "cuda:1", "boxa", "training"),
    )
    assert 1.0 <= use.ran_s < 1.5 < use.ended - use.began
    assert begun <= use.asked <= use.began
    assert use.until == use.ended
    assert (use.state, use.state_name, use.running, use.on_gpu) == ("COMPLETED", "Completed", False, True)


def test_a_run_that_runs_counts_up_to_now_and_one_that_waits_again_does_not_go_on(api):
    runs = add(api, "cpu.preparation", Running(), 0.3)
    waits = add(api, "cuda:0.training", Running(), 0.3, Scheduled())
    first, second = one(runs), one(waits)
    assert first.running
    assert first.ended is None
    assert not first.on_gpu
    assert first.owner == FROM_PAGE
    assert first.ran_s >= 0.3
    assert first.at(first.until + 60).ran_s == pytest.approx(first.ran_s + 60)
    assert not second.running
    assert second.ended is None
    assert second.device == "cuda:0"
    assert second.at(second.until + 60) == second


def test_pipelines_and_runs_that_never_began_have_no_use(api):
    pipeline = add(api, "cpu.pipeline", Running(), Completed())
    never = add(api, "cuda.training", Cancelled())
    assert not {pipeline, never} & {use.run_id for use in read_uses(PoolClient(), 0.0)}


def test_only_what_ended_since_or_goes_on_is_read(api):
    before = add(api, "cuda.training", Running(), Completed())
    alive = add(api, "cuda.training", Running())
    time.sleep(0.1)
    since = time.time()
    after = add(api, "cuda.training", Running(), Completed())
    found = {use.run_id for use in read_uses(PoolClient(), since)}
    assert {alive, after} <= found
    assert before not in found


@flow
def own(device: str) -> None:
    """Hold a slot in a person's own process."""
    with on_device(device, "inference"):
        time.sleep(0.3)


def test_a_run_in_a_persons_own_process_does_not_count_its_wait_for_the_slot(api, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "1")
    monkeypatch.setenv("TRAINYARD_OWNER", "ben@boxb")
    uuid, since = "GPU-simulated-0", time.time()
    holder = Holder("r", "other", "anna@boxa", "cuda:0", uuid, "inference", -1, os.getpid(), since, None)
    leases = [acquire(uuid, "inference", 3, holder) for _ in range(3)]
    threading.Timer(2.5, lambda: [lease.release() for lease in leases]).start()
    asked = time.monotonic()
    own("cuda")
    took_s = time.monotonic() - asked
    use = next(use for use in read_uses(PoolClient(), since) if use.flow == "own")
    assert (use.owner, use.device, use.kind, use.deployment) == ("ben@boxb", "cuda:0", "inference", "")
    assert use.began - use.asked > 1.5
    assert 0.3 <= use.ran_s < took_s - 1.5


def test_the_reader_asks_for_what_is_new_and_keeps_the_rest(api):
    now = time.time()
    asked = []

    class Watched:
        def pages(self, path, body):
            asked.append(json.dumps(body))
            return PoolClient().pages(path, body)

    reader = UsageReader(Watched(), lambda: now, every_s=60)
    first = add(api, "cuda.training", Running(), Completed())
    assert first in {use.run_id for use in reader.uses()}
    n_asked, second = len(asked), add(api, "cuda.training", Running(), Completed())
    now += 59
    reader.uses()
    assert len(asked) == n_asked
    now += 1
    reader.uses()
    reader._thread.join()
    assert {first, second} <= {use.run_id for use in reader.uses()}
    last = datetime.fromtimestamp(now - 60 - 120, UTC).isoformat()
    assert any(last in body for body in asked[n_asked:])


def test_a_server_that_hangs_or_is_away_keeps_nobody_waiting(prefect, client):
    now = time.time()
    run_id = prefect.add_run(
        *("RUNNING", "cuda.training"), start_time="2026-01-01T00:00:00Z", total_run_time=7.0, work_pool_name=POOL
    )
    prefect.runs[run_id]["state"]["timestamp"] = datetime.now(UTC).isoformat()
    reader = UsageReader(client, lambda: now, every_s=60)
    (use,) = reader.uses()
    assert use.ran_s == pytest.approx(7.0, abs=5)
    prefect.away = True
    now += 100
    begun = time.perf_counter()
    (later,) = reader.uses()
    assert time.perf_counter() - begun < 0.1
    assert later.ran_s == pytest.approx(use.ran_s + 100, abs=2)
    reader._thread.join()
    assert [use.run_id for use in reader.uses()] == [run_id]
