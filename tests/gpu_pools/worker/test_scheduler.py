"""What waits is started, or says why it waits, or fails with a sentence."""

import os
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gpu_pools.bookings.booking import Booking
from gpu_pools.bookings.store import BookingStore
from gpu_pools.placement.host_state import HostState
from gpu_pools.placement.order import Waiting
from gpu_pools.placement.probe import get_probe
from gpu_pools.placement.queues import Queue
from gpu_pools.slots.lease import Holder, acquire, holders
from gpu_pools.slots.ledger import Ledger
from gpu_pools.slots.waiters import Announcement, waiting_elsewhere
from gpu_pools.worker.dispatch import Dispatcher
from gpu_pools.worker.scheduler import Scheduler
from tests.gpu_pools.worker.monitored import take_slot

FLOW = "flows.classification.train_classifier"


@pytest.fixture
def started(monkeypatch):
    """Return the ids of the runs that a worker starts, in their order; they get a slot and no process."""
    ids: list[str] = []
    slots = []

    def start(self, run, uuids, queues, team=()):
        ids.append(run.id)
        slots.append(self._kept.take(run.id, uuids) or take_slot(run.id))
        return True

    monkeypatch.setattr("gpu_pools.worker.starter.Starter.start", start)
    yield ids
    for slot in slots:
        slot.release()


def test_the_first_in_the_queue_starts_and_the_others_say_for_whom_they_wait(prefect, dispatcher, started):
    days = (f"2026-01-0{day}T00:00:00Z" for day in (1, 2, 3))
    first, second, third = (prefect.add_run("SCHEDULED", expected_start_time=day) for day in days)
    dispatcher.tick()
    assert started == [first, second]  # the CPU takes two trainings
    assert prefect.state(third)[1] == "Waiting"
    assert prefect.state(third)[2].startswith("the limit of cpu trainings is 2: run of anna@boxa since")


def test_a_terminal_has_its_turn_and_loses_it(prefect, dispatcher, started, host):
    first = prefect.add_run("SCHEDULED", "cuda:0.training")
    with Announcement("terminal") as notice:
        notice.say([Waiting("t", "mine", Queue("cuda:0", "training"), 1, 0.0, "ben@boxa")])
        dispatcher.tick()
        assert started == []
        assert prefect.state(first)[2] == "cuda:0 is training mine of ben@boxa, which starts now"
        assert [run.run_id for run in waiting_elsewhere(("worker",), ())] == [first]
        host.now += 11.0
        dispatcher.tick()  # it does not take it
        dispatcher.tick()
        assert started == [first]
        dispatcher.tick()
        assert waiting_elsewhere(("worker",), ()) == []


def test_whose_owner_had_less_lately_goes_first_and_the_other_knows_where_it_stands(prefect, dispatcher, started, host):
    ended = datetime.fromtimestamp(host.now, UTC).isoformat()
    times = {"start_time": ended, "end_time": ended, "total_run_time": 5 * 3600.0}
    prefect.add_run("COMPLETED", "cuda:0.training", job_variables={"owner": "anna@boxb"}, **times)
    due = datetime.fromtimestamp(host.now - 60, UTC).isoformat()
    anna = prefect.add_run("SCHEDULED", "cuda.training", job_variables={"owner": "anna@boxa"})
    ben = prefect.add_run("SCHEDULED", "cuda.training", job_variables={"owner": "ben@boxa"}, created=due)
    for run_id in (anna, ben):
        prefect.runs[run_id] |= {"expected_start_time": due}
    with Announcement("terminal") as notice:
        notice.say([Waiting("t", "theirs", Queue("cuda", "training"), 5, host.now, "carl@boxa")])
        holder = Holder("r", "big", "dora@boxa", "cuda:0", "GPU-simulated-0", "training", -1, 1, host.now, None)
        with acquire(holder.uuid, "training", 1, holder):
            dispatcher.tick()
        expected = "; anna, 3rd of 3 who wait, had 4.9 GPU hours lately, ben 0.0, carl 0.0: 2 runs before this one"
        assert prefect.state(anna)[2].endswith(expected)
        assert [round(run.recent_use_s / 3600) for run in waiting_elsewhere(("worker",), ())] == [0, 5]
        dispatcher.tick()
        assert started == [ben]


def test_of_two_slots_that_become_free_who_had_most_gets_one_however_long_they_waited(
    prefect, dispatcher, started, host
):
    now = datetime.fromtimestamp(host.now, UTC)
    times = {"start_time": (now - timedelta(days=3)).isoformat(), "end_time": (now - timedelta(days=2.9)).isoformat()}
    prefect.add_run("COMPLETED", job_variables={"owner": "anna@boxa"}, total_run_time=2 * 3600.0, **times)
    runs = []
    for owner, waited in (("anna", timedelta(days=2)), ("anna", timedelta(days=2)), ("ben", timedelta(hours=1))):
        due = (now - waited).isoformat()
        variables = {"owner": f"{owner}@boxa"}
        runs.append(prefect.add_run("SCHEDULED", job_variables=variables, created=due, expected_start_time=due))
    dispatcher.tick()
    assert len(started) == 2  # of the CPU
    assert runs[2] in started


def test_terminals_need_not_wait_for_runs_that_the_pool_holds_up(prefect, dispatcher, started):
    prefect.add_run("SCHEDULED", "cuda:0.training")
    prefect.pool |= {"is_paused": True}
    dispatcher.tick()
    assert (started, waiting_elsewhere(("worker",), ())) == ([], [])


def test_a_pause_of_the_pool_and_its_limit_are_the_reason(prefect, dispatcher, started):
    run_id = prefect.add_run("SCHEDULED")
    prefect.pool |= {"is_paused": True}
    dispatcher.tick()
    assert (started, prefect.state(run_id)[2]) == ([], "work pool gpu is paused")


def test_a_pause_counts_before_each_start(prefect, dispatcher, started, monkeypatch):
    for _ in range(2):
        prefect.add_run("SCHEDULED")
    before = Scheduler._start

    def start_and_pause(self, *args):
        before(self, *args)
        prefect.pool |= {"is_paused": True}

    monkeypatch.setattr(Scheduler, "_start", start_and_pause)
    dispatcher.tick()
    assert len(started) == 1


def test_a_run_that_may_not_wait_is_refused(prefect, dispatcher, started):
    slots = [take_slot(name) for name in ("a", "b")]
    run_id = prefect.add_run("SCHEDULED", job_variables={"when_busy": "refuse"})
    dispatcher.tick()
    assert prefect.state(run_id)[0] == "CANCELLED"
    assert prefect.state(run_id)[2].startswith("refused: the limit of cpu trainings is 2: run of anna")
    for slot in slots:
        slot.release()


@pytest.mark.parametrize(
    ("queue", "text"),
    [
        ("cuda:7.training", "found no device 'cuda:7'"),
        ("boxc.cpu.training", "found no host 'boxc' for device boxc/cpu; have: boxa, boxb"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_can_never_start_fails_with_a_sentence(prefect, dispatcher, queue, text):
    prefect.workers = [{"name": "boxb", "status": "OFFLINE"}]
    run_id = prefect.add_run("SCHEDULED", queue)
    dispatcher.tick()
    assert prefect.state(run_id)[0] == "FAILED"
    assert text in prefect.state(run_id)[2]


@pytest.mark.parametrize("asks", ["a device", "several hosts"])
def test_a_run_is_not_refused_by_what_was_read_before_another_host_came(prefect, dispatcher, host, asks):
    dispatcher.tick()
    host.now += 5  # which hosts there are is read twice a minute
    prefect.workers = [{"name": "boxb", "status": "ONLINE"}]
    prefect.queues = [{"name": "boxb.cuda:1.training", "concurrency_limit": None, "is_paused": False}]
    if asks == "a device":
        run_id = prefect.add_run("SCHEDULED", "cuda:1.training")
    else:
        parameters = {"train": {"device": "cuda", "n_devices": 1, "n_hosts": 2}}
        run_id = prefect.add_run("SCHEDULED", "cuda.training", parameters=parameters)
    dispatcher.tick()
    assert prefect.state(run_id)[0] == "SCHEDULED", prefect.state(run_id)


def test_a_run_for_a_host_without_a_worker_waits(prefect, dispatcher):
    prefect.workers = [{"name": "boxb", "status": "OFFLINE"}]
    run_id = prefect.add_run("SCHEDULED", "boxb.cpu.training")
    dispatcher.tick()
    assert prefect.state(run_id)[2] == "boxb/cpu waits for a worker on boxb: none is online"


def test_a_run_that_died_gets_its_slot_before_those_that_waited_longer(prefect, dispatcher, host, started):
    prefect.add_run("SCHEDULED")
    died = prefect.add_run("SCHEDULED", expected_start_time="2026-01-02T00:00:00Z")
    slot = take_slot("other")
    dispatcher._kept.keep(died, ("cpu",), take_slot(died))
    dispatcher.tick()
    assert started[0] == died
    slot.release()


def test_a_run_that_has_started_on_another_host_does_not_start_here(prefect, dispatcher, started):
    run_id = prefect.add_run("SCHEDULED")
    with take_slot(run_id):  # by another worker, just now
        dispatcher.tick()
    assert started == []
    assert prefect.state(run_id)[1] == "Scheduled"


def test_what_is_kept_for_a_run_that_was_cancelled_is_let_go(prefect, dispatcher):
    dispatcher._kept.keep("gone", ("cpu",), take_slot("gone"))
    dispatcher.tick()
    assert holders() == []


def test_a_booking_made_a_moment_ago_holds_for_a_start_also_while_others_wait(
    prefect, client, dispatcher, host, started
):
    holder = Holder("r", "other", "ben@boxa", "cuda:0", "GPU-simulated-0", "training", -1, os.getpid(), 0.0, None)
    with acquire("GPU-simulated-0", "training", 1, holder):
        prefect.add_run("SCHEDULED", "cuda:0.training")
        dispatcher.tick()  # reads the bookings
        booking = Booking("a1", "boxa", "cuda:0", "carl", datetime.fromtimestamp(host.now, ZoneInfo("UTC")), 7200.0)
        BookingStore(client.call).edit("boxa/cuda:0", lambda _: [booking], host.now)
    dispatcher.tick()
    assert started == []


@pytest.mark.usefixtures("dispatcher")
def test_a_run_for_any_gpu_takes_the_one_that_its_owner_has_booked(prefect, client, host, monkeypatch):
    monkeypatch.setenv("TRAINYARD_SIMULATE_GPUS", "2")
    booking = Booking("a1", "boxa", "cuda:1", "anna", datetime.fromtimestamp(host.now - 60, ZoneInfo("UTC")), 7200.0)
    BookingStore(client.call).edit("boxa/cuda:1", lambda _: [booking], host.now)
    found = Dispatcher("boxa:two", client, HostState("boxa", get_probe()), Ledger("two"), clock=lambda: host.now)
    chosen = {}

    def start(self, run, uuids, queues, team=()):
        (chosen[run.name],) = uuids
        return True

    monkeypatch.setattr("gpu_pools.worker.starter.Starter.start", start)
    for name, owner in (("of-ben", "ben@boxa"), ("of-anna", "anna@boxb")):
        prefect.add_run("SCHEDULED", "cuda.training", name=name, job_variables={"owner": owner})
    found.tick()
    found.close()
    assert chosen == {"of-ben": "GPU-simulated-0", "of-anna": "GPU-simulated-1"}


def test_a_run_that_would_run_into_a_booking_waits_for_its_end(prefect, client, dispatcher, host, started):
    begin = datetime.fromtimestamp(host.now, ZoneInfo("UTC")) + timedelta(hours=1)
    booking = Booking("a1", "boxa", "cuda:0", "carl", begin, 7200.0)
    BookingStore(client.call).edit("boxa/cuda:0", lambda _: [booking], host.now)
    long, short = (
        prefect.add_run("SCHEDULED", "cuda:0.training", job_variables={"time_limit": limit, "owner": "anna@boxa"})
        for limit in ("2h", "20m")
    )
    worker = Dispatcher("boxa:two", client, HostState("boxa", get_probe()), Ledger("two"), clock=lambda: host.now)
    worker.tick()
    assert started == [short]
    assert prefect.state(long)[2].startswith("cuda:0 is booked by carl from ")
    assert prefect.state(long)[2].endswith("; this run may take up to its time limit of 2 h")
    prefect.set_state(short, "COMPLETED")
    host.now += 3 * 3600 + 1
    worker.tick()
    assert started == [short, long]
    worker.close()


def test_a_run_that_any_host_may_start_is_left_to_an_idle_one_for_a_moment(prefect, dispatcher, started, host):
    prefect.workers = [{"name": "boxb", "status": "ONLINE"}]

    def due() -> str:
        return datetime.fromtimestamp(host.now, UTC).isoformat()

    first = prefect.add_run("SCHEDULED", expected_start_time=due())
    dispatcher.tick()
    assert started == [first]  # nothing is held here
    second = prefect.add_run("SCHEDULED", expected_start_time=due())
    dispatcher.tick()
    assert started == [first]  # one of two slots is held: half of three seconds
    assert not prefect.state(second)[2]
    host.now += 1.6
    dispatcher.tick()
    assert started == [first, second]


def test_a_run_for_this_host_is_left_to_nobody(prefect, dispatcher, started, host):
    prefect.workers = [{"name": "boxb", "status": "ONLINE"}]
    due = datetime.fromtimestamp(host.now, UTC).isoformat()
    runs = [prefect.add_run("SCHEDULED", "boxa.cpu.training", expected_start_time=due) for _ in range(2)]
    dispatcher.tick()
    assert sorted(started) == sorted(runs)


def test_a_host_without_company_leaves_nothing_to_others(prefect, dispatcher, started, host):
    online = [{"name": name, "status": "ONLINE"} for name in ("boxa", "boxa:two", "slurm")]
    prefect.workers = [{"name": "boxb", "status": "OFFLINE"}, *online]
    due = datetime.fromtimestamp(host.now, UTC).isoformat()
    runs = [prefect.add_run("SCHEDULED", expected_start_time=due) for _ in range(2)]
    dispatcher.tick()
    assert sorted(started) == sorted(runs)
