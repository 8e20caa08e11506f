"""A slot that nobody uses is reported once, and given back only where that is agreed."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.runs.find import _sentence
from gpu_pools.names import GIVEN_BACK_LABEL, IDLE_LABEL, KIND_LABEL
from gpu_pools.placement.devices import simulated
from gpu_pools.placement.probe import SimulatedProbe
from gpu_pools.sharing.settings import SettingsReader, read_settings, settings_path
from gpu_pools.slots.activity import Activity, cpu_times, typed_s_ago
from gpu_pools.worker.monitor import idle_slots
from gpu_pools.worker.monitor.idle_slots import IdleSlots
from tasks.base.errors import ConfigError
from tests.gpu_pools.worker.monitored import SLEEPS, take_slot

BUSY = ("sh", "-c", "while :; do :; done")
SETTINGS = (
    "idle:\n  training: {report: 30m, give_back: 1h}\nnotices:\n  to:\n    all: {webhook: 'http://127.0.0.1:1/'}\n"
)


def watch(client, host):
    return IdleSlots(client, host.monitor, SimulatedProbe(1), SettingsReader(), lambda: host.now)


@pytest.fixture
def idle(client, host):
    """Yield what looks for idle slots on a host, with its clock."""
    return watch(client, host)


@pytest.fixture
def agreed(host):
    """Settings by which an idle run is ended an hour after the report."""
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(SETTINGS)
    settings_path().chmod(0o600)


def look_for(idle, host, seconds):
    """Look every four minutes for so long."""
    end = host.now + seconds
    while host.now < end:
        host.now = min(end, host.now + 240)
        idle.look()


def sentence(prefect, run_id):
    return _sentence(prefect.runs[run_id] | {"state_type": "RUNNING", "next_scheduled_start_time": None}, {})


def notices():
    return [json.loads(path.read_text()) for path in (settings_path().parent / "notices" / "waiting").glob("*.json")]


def works(run_pid, seconds=0.1):
    before = sum(cpu_times([run_pid]).values())
    while sum(cpu_times([run_pid]).values()) < before + seconds:
        pass


def test_an_idle_run_is_reported_once_and_goes_on(prefect, host, idle):
    run_id = prefect.add_run("RUNNING")
    process = host.start(run_id, slot=True)
    look_for(idle, host, 1800)
    assert sentence(prefect, run_id) == ""
    look_for(idle, host, 480)
    assert sentence(prefect, run_id).startswith("idle since ")
    assert sentence(prefect, run_id).endswith("its processes use neither a CPU nor a GPU")
    (tag,) = prefect.runs[run_id]["tags"]
    assert tag.startswith("idle since ")
    look_for(idle, host, 7200)
    assert len(prefect.runs[run_id]["tags"]) == 1
    assert process.poll() is None  # by default it is reported, and no more
    assert notices() == []  # nobody is to be told


def test_it_is_given_back_after_the_second_period_where_that_is_agreed(prefect, host, idle, agreed):
    run_id = prefect.add_run("RUNNING")
    process = host.start(run_id, slot=True)
    look_for(idle, host, 2160)
    assert sentence(prefect, run_id).endswith("; it is ended 1 h after this report unless it works again")
    (told,) = notices()
    assert (told["kind"], told["owner"], told["figures"]) == ("idle", "anna@boxa", {"idle": "32 min"})
    assert told["text"].startswith("run of anna@boxa is idle since ")
    look_for(idle, host, 3000)
    assert host.monitor.get(run_id).ending is None
    look_for(idle, host, 720)
    host.tick_until_exit(process)
    assert prefect.state(run_id)[0] == "CANCELLED"
    assert prefect.state(run_id)[2].startswith("gave cpu back: its processes used neither a CPU nor a GPU for 1 h ")


def test_who_computes_is_not_idle_and_a_report_is_taken_back(prefect, host, idle):
    run_id = prefect.add_run("RUNNING")
    host.start(run_id, BUSY, slot=True)
    for _ in range(4):
        host.now += 1.0
        works(host.monitor.get(run_id).pid)
        idle.look()
    assert sentence(prefect, run_id) == ""
    look_for(idle, host, 2400)  # next to nothing, of so long a time
    assert sentence(prefect, run_id).startswith("idle since ")
    works(host.monitor.get(run_id).pid, 0.2)
    host.now += 1.0
    idle.look()
    assert sentence(prefect, run_id) == ""


def test_a_host_that_slept_has_not_idled(prefect, host, idle, agreed):
    run_id = prefect.add_run("RUNNING")
    process = host.start(run_id, slot=True)
    look_for(idle, host, 240)
    host.now += 36_000
    idle.look()
    assert (sentence(prefect, run_id), process.poll()) == ("", None)


def test_a_worker_that_starts_again_begins_anew_and_tells_nobody_twice(client, prefect, host, idle, agreed):
    run_id = prefect.add_run("RUNNING")
    host.start(run_id, slot=True)
    look_for(idle, host, 2400)
    assert len(notices()) == 1
    host.restart()
    idle = watch(client, host)
    look_for(idle, host, 480)
    assert sentence(prefect, run_id) == ""
    look_for(idle, host, 1800)
    assert sentence(prefect, run_id).startswith("idle since ")
    assert len(notices()) == 1


def in_a_terminal(prefect, labels):
    """Return the lease of a run that a person's process holds, and that process."""
    run_id = prefect.add_run("RUNNING", labels=labels)
    lease = take_slot(run_id)
    process = subprocess.Popen(SLEEPS, pass_fds=lease.run_fds)
    lease.record(pid=process.pid)
    lease.hand_over()
    return run_id, lease, process


def test_a_run_in_a_terminal_is_told_to_end_and_can_read_why(prefect, host, idle, agreed):
    run_id, lease, process = in_a_terminal(prefect, {KIND_LABEL: "training"})
    with lease, process:
        look_for(idle, host, 2160)
        assert sentence(prefect, run_id).startswith("idle since ")
        look_for(idle, host, 3840)
        assert process.wait(10) == -15
    assert prefect.runs[run_id]["labels"][GIVEN_BACK_LABEL].startswith("gave cpu back: its processes used neither")


def test_a_run_of_another_yard_is_left_alone(prefect, host, idle, agreed):
    run_id, lease, process = in_a_terminal(prefect, {})
    with lease, process:
        look_for(idle, host, 7200)
        assert process.poll() is None
        process.kill()
    assert IDLE_LABEL not in prefect.runs[run_id]["labels"]


def test_a_process_that_does_not_have_the_slot_is_never_ended(prefect, host, idle, agreed):
    run_id, lease, process = in_a_terminal(prefect, {KIND_LABEL: "training"})
    with lease, process, subprocess.Popen(SLEEPS) as another:
        lease.record(pid=another.pid)  # as any user of the host may write it
        look_for(idle, host, 7200)
        assert (process.poll(), another.poll()) == (None, None)
        another.kill()
        process.kill()
    assert GIVEN_BACK_LABEL not in prefect.runs[run_id]["labels"]


def test_a_record_without_a_run_is_passed_over(host, idle, agreed):
    with take_slot("no-id"):
        look_for(idle, host, 7200)


def test_typing_is_use():
    assert typed_s_ago([os.getpid(), 1]) > 0  # whatever terminals there are
    ours, child = pty.openpty()
    command = [sys.executable, "-m", "gpu_pools.process.own_terminal", "sh", "-c", "read line; echo $line; sleep 60"]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child) as process:
        os.close(child)
        os.write(ours, b"now\n")
        deadline = time.monotonic() + 20
        while typed_s_ago([process.pid]) > idle_slots._TYPED_S and time.monotonic() < deadline:
            time.sleep(0.05)
        assert typed_s_ago([process.pid]) < idle_slots._TYPED_S
        os.close(ours)
        process.kill()
    assert typed_s_ago([process.pid]) == float("inf")


def test_a_gpu_that_computes_counts_as_use(tmp_path):
    state, now = tmp_path / "state.json", [0.0]
    uuid = simulated(0).uuid
    activity = Activity(SimulatedProbe(1, state), [uuid], lambda: now[0])
    with subprocess.Popen(["sleep", "300"]) as process:
        now[0] = 100.0
        assert activity.idle_s([process.pid]) == 100.0
        state.write_text(json.dumps({"cuda:0": {"utilisation_percent": 7}}))
        assert activity.idle_s([process.pid]) == 0.0
        state.unlink()
        now[0] = 150.0
        assert activity.idle_s([process.pid]) == 50.0
        process.kill()


def test_the_example_of_the_page_is_what_it_says(host):
    page = (Path(__file__).parents[4] / "docs" / "sharing.md").read_text()
    (example,) = re.findall(r"```yaml\n(idle:\n.*?)```", page, re.S)
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(example)
    rules = read_settings().idle
    assert (rules.training.report, rules.training.give_back) == (1800, 3600)
    assert (rules.inference.report, rules.inference.give_back) == (7200, None)
    assert (rules.preparation.report, rules.of("pipeline"), rules.of("housekeeping")) == (None, None, None)


def test_a_wrong_period_is_refused(host):
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    for wrong in ("soon", "30", "yes"):
        settings_path().write_text(f"idle:\n  training: {{report: {wrong}}}\n")
        with pytest.raises(ConfigError, match="idle.training.report: .*found duration "):
            read_settings()
    settings_path().write_text("idle:\n  training: {report: never}\n")
    assert read_settings().idle.training.report is None


def test_a_run_on_several_gpus_is_in_use_while_one_of_them_computes(tmp_path):
    state, now = tmp_path / "state.json", [0.0]
    activity = Activity(SimulatedProbe(2, state), [simulated(0).uuid, simulated(1).uuid], lambda: now[0])
    now[0] = 100.0
    assert activity.idle_s([]) == 100.0
    state.write_text(json.dumps({"cuda:1": {"utilisation_percent": 7}}))
    assert activity.idle_s([]) == 0.0
