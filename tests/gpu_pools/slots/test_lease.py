"""Slots held by real processes: killed, stopped, racing, of other users."""

import os
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest

from gpu_pools.slots import lease, slot_files
from gpu_pools.slots.lease import Holder, SlotProgress, acquire, holders, report_progress
from tasks.base.errors import StorageError
from tasks.base.file_locks import lock
from tests.gpu_pools.slots.killing import SLEEP, kill, until

pytestmark = pytest.mark.usefixtures("folder")

GPU = "GPU-0"
ANNA = Holder("r1", "rfuav", "anna@boxa", "cuda:0", GPU, "training", -1, os.getpid(), 1700000000.0, None)

# Takes a slot, starts a process that holds the run's lock, hands it over, says its pid, and stays.
WORKER = """
import os, subprocess, sys, time
from gpu_pools.slots.lease import Holder, acquire
holder = Holder("orphan", "orphan", "ben@boxa", "cuda:0", "GPU-0", "training", -1, os.getpid(), 1.0, None)
lease = acquire("GPU-0", "training", 1, holder)
run = subprocess.Popen(sys.argv[1:], pass_fds=lease.run_fds, start_new_session=True, stdout=subprocess.DEVNULL)
lease.record(pid=run.pid)
lease.hand_over()
print(run.pid, flush=True)
time.sleep(60)
"""


def take(limit=1, kind="training", uuid=GPU, holder=ANNA):
    return acquire(uuid, kind, limit, holder)


@pytest.fixture
def orphan(start):
    """Yield the pid of a run whose worker was killed, holding the only slot; the run is killed at the end."""
    worker = start(sys.executable, "-c", WORKER, *SLEEP)
    pid = int(worker.stdout.readline())
    worker.kill()
    worker.wait()
    yield pid
    kill(pid)


# ---- slots and limits


def test_as_many_slots_as_the_limit_from_the_lowest_number():
    first, second = take(2), take(2)
    assert [lease.holder.number for lease in (first, second)] == [0, 1]
    assert take(2) is None
    first.release()
    with take(2) as third:
        assert third.holder.number == 0
    second.release()


def test_a_limit_of_none_lets_nobody_in():
    assert take(0) is None


def test_kinds_and_devices_do_not_take_each_other_s_slots():
    with take(), take(kind="inference"), take(uuid="GPU-1"), take(uuid="cpu"), take(uuid="GPU-0-2"):
        assert take() is None
        assert len(holders()) == 5
        assert [holder.uuid for holder in holders(kind="training")] == ["GPU-0", "GPU-0-2", "GPU-1", "cpu"]
        assert [holder.kind for holder in holders(GPU)] == ["inference", "training"]


def test_the_lease_says_what_was_taken():
    with take(uuid="GPU-1", kind="inference", limit=3, holder=replace(ANNA, uuid="x", number=7)) as found:
        assert (found.holder.uuid, found.holder.kind, found.holder.number) == ("GPU-1", "inference", 0)
        assert holders() == [found.holder]


def test_a_limit_lowered_while_slots_are_held_counts_those_above_it():
    low, high = take(2), take(2)
    assert take(1) is None
    low.release()
    assert take(1) is None  # number 0 is free, but number 1 is held
    high.release()
    take(1).release()


def test_a_limit_raised_makes_room():
    with take(1), take(2):
        assert len(holders(GPU)) == 2


def test_releasing_twice_does_not_free_another_one_s_slot():
    first = take()
    first.release()
    with take():
        first.release()
        assert len(holders()) == 1


def test_the_run_s_lock_is_for_the_run_and_the_worker_s_for_the_worker_only():
    with take() as found:
        assert os.get_inheritable(found.run_fds[0])
        inheritable = [fd for fd in open_files_of(found.files[0].with_suffix(".worker")) if os.get_inheritable(fd)]
        assert inheritable == []
        found.hand_over()
        with pytest.raises(ValueError, match="handed over or released"):
            _ = found.run_fds


def open_files_of(path):
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    found = [
        fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}") and os.path.samefile(f"/proc/self/fd/{fd}", path)
    ]
    assert found
    return found


def test_nothing_stays_open_after_a_release():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with take():
            assert take() is None
            holders()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- processes


def test_a_run_keeps_its_slot_when_its_worker_is_killed(orphan):
    assert take() is None
    (held,) = holders()
    assert (held.run_name, held.owner, held.pid) == ("orphan", "ben@boxa", orphan)
    kill(orphan)
    until(lambda: holders() == [])
    take().release()


def test_a_dead_worker_frees_its_own_lock_only(orphan, folder):
    slot = folder / "GPU-0.training.0.run"
    assert not slot_files.is_locked(slot.with_suffix(".worker"))
    assert slot_files.is_locked(slot)


def test_a_stopped_run_keeps_its_slot(orphan):
    kill(orphan, signal.SIGSTOP)
    time.sleep(0.1)
    assert psutil.Process(orphan).status() == psutil.STATUS_STOPPED
    assert take() is None
    assert len(holders()) == 1


def test_a_stopped_worker_keeps_the_slot_of_a_run_that_ended(start):
    worker = start(sys.executable, "-c", WORKER, *SLEEP)
    run = int(worker.stdout.readline())
    kill(worker.pid, signal.SIGSTOP)
    kill(run)
    until(lambda: not slot_files.is_locked(lease.lock_dir() / "GPU-0.training.0.run"))
    assert take() is None  # it has yet to see what became of the run
    worker.kill()
    worker.wait()
    take().release()


def test_the_last_process_that_inherited_the_lock_frees_the_slot(start):
    code = "import os, subprocess, sys; print(subprocess.Popen(sys.argv[1:], close_fds=False).pid, flush=True); input()"
    found = take()
    run = start(sys.executable, "-c", code, *SLEEP, pass_fds=found.run_fds)
    child = int(run.stdout.readline())
    found.hand_over()
    found.release()
    run.kill()
    run.wait()
    assert take() is None
    kill(child)
    until(lambda: holders() == [])
    take().release()


def test_a_slot_released_while_its_run_lives_is_held_and_keeps_its_record(start):
    found = take()
    run = start(*SLEEP, pass_fds=found.run_fds)
    found.release()
    assert [holder.run_name for holder in holders()] == ["rfuav"]
    run.kill()
    run.wait()
    assert holders() == []


def test_a_worker_that_is_still_there_holds_the_slot_after_its_run(start):
    found = take()
    run = start(*SLEEP, pass_fds=found.run_fds)
    found.hand_over()
    run.kill()
    run.wait()
    assert take() is None
    found.release()
    take().release()


RACER = """
import os, sys
from gpu_pools.slots.lease import Holder, acquire
holder = Holder(sys.argv[1], sys.argv[1], "o", "cuda:0", "GPU-0", "training", -1, os.getpid(), 1.0, None)
for line in sys.stdin:
    lease = acquire("GPU-0", "training", 2, holder)
    print("none" if lease is None else lease.holder.number, flush=True)
    sys.stdin.readline()
    if lease: lease.release()
    print("released", flush=True)
"""


def test_two_that_race_for_the_last_slot_never_both_get_one(start):
    """The hard case: number 1 is held and 0 is free, so that who comes second finds number 2 free."""
    below, held = take(2), take(2)
    below.release()
    racers = [start(sys.executable, "-c", RACER, name) for name in "ab"]
    won = dict.fromkeys("ab", 0)
    for _ in range(200):
        for racer in racers:
            racer.stdin.write("go\n")
        got = [racer.stdout.readline().strip() for racer in racers]
        assert sorted(got) == ["0", "none"]
        won["ab"[got.index("0")]] += 1
        assert sorted(holder.number for holder in holders()) == [0, 1]
        for racer in racers:
            racer.stdin.write("release\n")
            assert racer.stdout.readline() == "released\n"
    held.release()
    assert min(won.values()) > 0  # a race, and not a walk-over


def test_who_only_looks_is_never_in_the_way(start):
    looker = start(
        sys.executable, "-c", "from gpu_pools.slots.lease import holders\nprint(flush=True)\nwhile True: holders()"
    )
    looker.stdout.readline()
    for _ in range(300):
        with take() as found:
            assert found is not None
            assert found.holder.number == 0


def test_somebody_stopped_while_he_looked_costs_a_number_and_no_slot(folder):
    take().release()
    fd = slot_files.open_lock(folder / "GPU-0.training.0.run")
    assert lock(fd, shared=True)
    with take() as found:
        assert found.holder.number == 1
        assert take() is None
    os.close(fd)


def test_somebody_stopped_while_taking_a_slot_delays_the_others_by_a_second_and_no_more(folder):
    take().release()
    fd = slot_files.open_lock(folder / "GPU-0.training.guard")
    assert lock(fd)
    began = time.monotonic()
    assert take() is None
    assert 0.9 < time.monotonic() - began < 3
    assert holders() == []
    os.close(fd)
    take().release()


# ---- records


def test_progress_reported_from_inside_a_run_is_seen_by_others(start):
    code = (
        "from gpu_pools.slots.lease import report_progress; report_progress(3, 30, 1500.0); print(flush=True); input()"
    )
    with take() as found:
        run = start(sys.executable, "-c", code, env={**os.environ, **found.env}, pass_fds=found.run_fds)
        found.record(pid=run.pid)
        run.stdout.readline()
        (held,) = holders(GPU, "training")
        assert held.pid == run.pid
        assert held.progress is not None
        assert (held.progress.epoch, held.progress.n_epochs, held.progress.remaining_s) == (3, 30, 1500.0)
        assert abs(held.progress.updated - time.time()) < 30


def test_a_worker_may_write_the_progress_itself():
    with take() as found:
        found.record(progress=SlotProgress(1, 2, None, 3.0))
        assert holders() == [found.holder]
        assert found.holder.progress == SlotProgress(1, 2, None, 3.0)


def test_without_a_lease_progress_goes_nowhere(folder):
    report_progress(1, 2, 3.0)
    assert not folder.exists()


def test_without_the_run_s_name_progress_goes_to_who_holds_the_slot(monkeypatch):
    with take() as found:
        monkeypatch.setenv("TRAINYARD_LEASE", str(found.files[0]))
        report_progress(1, 2, None)
        (held,) = holders()
        assert held.progress is not None


def test_a_straggler_of_the_run_before_does_not_write_into_the_next_one_s_record(monkeypatch):
    with take() as found:
        straggler = found.env
    with take(holder=replace(ANNA, run_id="r2")):
        for name, value in straggler.items():
            monkeypatch.setenv(name, value)
        report_progress(29, 30, 1.0)
        (held,) = holders()
        assert (held.run_id, held.progress) == ("r2", None)


def test_a_released_slot_leaves_no_text():
    found = take()
    found.record(progress=SlotProgress(1, 2, None, 3.0))
    found.release()
    assert found.files[0].read_text().strip() == ""


def test_a_text_without_a_lock_is_no_holder(folder, orphan):
    kill(orphan)
    until(lambda: holders() == [])
    assert "orphan" in (folder / "GPU-0.training.0.run").read_text()  # nobody was there to clear it


def test_the_next_holder_is_never_shown_with_what_the_one_before_left(orphan):
    kill(orphan)
    until(lambda: holders() == [])
    with take():
        (held,) = holders()
        assert (held.run_name, held.progress) == ("rfuav", None)


@pytest.mark.parametrize("text", ["", '{"run_id": "r1", "run_na', "\0" * 4096])
def test_a_slot_with_an_empty_or_torn_record_is_still_held(text):
    with take() as found:
        found.files[0].write_text(text)
        (held,) = holders()
        assert (held.run_name, held.owner, held.kind, held.number) == ("?", "?", "training", 0)
        assert take() is None


def test_other_files_in_the_folder_are_no_slots(folder):
    take().release()
    for name in ("readme", "GPU-0.training.x.run", "GPU-0.cooking.0.run", ".GPU-0.training.0.worker"):
        (folder / name).write_text("x")
    assert holders() == []
    take().release()


def test_a_link_in_place_of_a_slot_is_an_error_that_names_it(folder, tmp_path):
    take().release()
    (folder / "GPU-0.training.0.run").unlink()
    (folder / "GPU-0.training.0.run").symlink_to(tmp_path / "elsewhere")
    for use in (take, holders):
        with pytest.raises(StorageError, match=r"GPU-0\.training\.0\.run"):
            use()


# ---- other users


@pytest.mark.parametrize("first_is_root", [True, False])
def test_another_user_takes_what_the_first_one_made_and_sees_who_holds_it(as_nobody, monkeypatch, first_is_root):
    folder, call = as_nobody
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(folder / "locks"))
    if not first_is_root:  # a folder of another user is refused, so root makes the one that all share
        (folder / "locks").mkdir()
        (folder / "locks").chmod(0o1777)
    before = os.umask(0o077)
    try:
        users = [lambda function, *args: function(*args), call]
        one, other = users if first_is_root else reversed(users)
        one(take).release()
        found = other(take)
        assert found is not None
        other(lambda: found.record(pid=1))
        assert one(take) is None
        assert [holder.pid for holder in one(holders)] == [1]
        other(found.release)
        assert one(holders) == []
    finally:
        os.umask(before)
    modes = {path.suffix: oct(path.stat().st_mode & 0o7777) for path in (folder / "locks").iterdir()}
    assert modes == {".run": "0o666", ".worker": "0o666", ".guard": "0o666"}
    assert oct((folder / "locks").stat().st_mode & 0o7777) == "0o1777"


def test_a_slot_whose_run_died_is_kept_for_its_next_process(start):
    lease = acquire(GPU, "training", 1, ANNA)
    run = start(*SLEEP, pass_fds=lease.run_fds)
    lease.hand_over()
    assert not lease.retake()  # its process lives
    run.kill()
    run.wait()
    assert acquire(GPU, "training", 1, replace(ANNA, run_id="r2")) is None
    assert lease.retake()
    again = start(*SLEEP, pass_fds=lease.run_fds)
    lease.hand_over()
    lease.release()
    assert [holder.run_id for holder in holders()] == ["r1"]
    again.kill()
    again.wait()
    assert holders() == []
