"""Runs on a real Slurm with two faked GPUs: handed over, cancelled, requeued, killed; the service killed meanwhile."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from deployments.services.service import free_port
from gpu_pools.slots import lease
from gpu_pools.slots.slot_files import Holder
from tests.chaos.yard import FINAL, ROOT, Yard
from tests.samples import small_classification, write_bands
from tests.slurm_cluster import slurm_cluster

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]

GPU, CPU = "slurm.cuda.training", "slurm.cpu.preparation"
SMALL = {"cpus": 1, "memory": "1G"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory, cluster):
    running = Yard(tmp_path_factory.mktemp("yard"), free_port(), **cluster.env)
    try:
        running.start_server()
        serve(running)
        running.deploy_runs()
        running.deploy_classification()
        yield running
    finally:
        running.stop()


def serve(made: Yard, **env: str) -> None:
    """Start the service that hands runs over, and wait until it works."""
    log = made.home / "slurm.log"
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        made.workers["slurm"] = subprocess.Popen(
            [sys.executable, "-m", "gpu_pools.slurm.serve"], env={**made.env, **env}, stdout=out, stderr=out, cwd=ROOT
        )

    def serves() -> bool:
        assert made.workers["slurm"].poll() is None, made.tails()
        return b"slurm serves" in log.read_bytes()[before:]

    made.until(serves, 120, "the service works")


@pytest.fixture
def hold(made):
    """A function that asks for a run on Slurm; what is left of them is cancelled at the end."""
    asked = []

    def ask(seconds=1.0, queue=GPU, **variables):
        asked.append(made.hold(queue, seconds, **SMALL, **variables))
        return asked[-1]

    yield ask
    for run in asked:
        if made.state(run)["type"] not in FINAL:
            made.cancel(run)
    made.until(lambda: all(made.state(run)["type"] in FINAL for run in asked), 90, "all has ended")
    made.until(lambda: not any((made.home / "slurm" / "runs").iterdir()), 60, "all is forgotten")


def job_of(made: Yard, run: str) -> str:
    """Return the number of the job of a run that waits or runs."""
    return str(json.loads((made.home / "slurm" / "runs" / f"{run}.json").read_text())["job_id"])


def workers_of(run: str) -> list[int]:
    """Return the processes that Slurm has started for a run."""
    words = f"gpu_pools.slurm.job\0{run}".encode()
    found = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(entry.name) for entry in found if words in _command(entry)]


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_two_run_and_the_third_says_slurms_reason(made, hold):
    first, second, third = hold(25), hold(25), hold(1)
    made.until(lambda: made.begun(first)() and made.begun(second)(), 60, "two run")
    made.until(lambda: "(Resources)" in (made.state(third)["message"] or ""), 30, "the third says why")
    assert made.state(third)["name"] == "Waiting"
    assert "waits until enough GPUs" in made.state(third)["message"]
    spans = [made.of(run)[0] for run in (first, second)]
    assert {span["visible"] for span in spans} == {"GPU-simulated-0", "GPU-simulated-1"}
    assert {span["slot"] for span in spans} == {f"GPU-simulated-{n}.training.0.run" for n in (0, 1)}
    for run in (first, second, third):
        made.until(made.is_(run, "COMPLETED"), 90, "it completes")
        assert len(made.of(run)) == 1


def test_a_cancelled_run_is_cancelled_and_nothing_else(made, cluster, hold):
    run = hold(300)
    made.until(made.begun(run), 60, "it runs")
    job = job_of(made, run)
    made.cancel(run)
    made.until(made.is_(run, "CANCELLED"), 30, "it is cancelled")
    made.until(lambda: job not in cluster.jobs(), 30, "its job is gone")
    assert "crashed" not in [state.lower() for state in made.told(run)]
    assert not made.marked(run)


def test_a_waiting_run_that_is_cancelled_leaves_no_job(made, cluster, hold):
    blocking = [hold(300), hold(300)]
    for run in blocking:
        made.until(made.begun(run), 60, "it runs")
    run = hold(1)
    made.until(lambda: "(Resources)" in (made.state(run)["message"] or ""), 30, "it waits")
    job = job_of(made, run)
    made.cancel(run)
    made.until(lambda: job not in cluster.jobs(), 30, "its job is gone")
    assert made.state(run)["type"] == "CANCELLED"
    assert not made.of(run)


def test_scancel_by_hand_is_a_cancel(made, cluster, hold):
    run = hold(300)
    made.until(made.begun(run), 60, "it runs")
    job = job_of(made, run)
    cluster.command("scancel", job)
    made.until(made.is_(run, "CANCELLED"), 30, "it is cancelled")
    assert made.state(run)["message"] == f"Slurm job {job} was cancelled in Slurm; what it saved is kept"


def test_a_requeued_run_goes_on_in_the_same_job(made, cluster, hold):
    run = hold(12)
    made.until(made.begun(run), 60, "it runs")
    job = job_of(made, run)
    cluster.command("scontrol", "requeue", job)
    made.until(made.is_(run, "SCHEDULED"), 30, "it waits")
    assert "Slurm" in made.state(run)["message"]
    made.until(made.begun(run, 2), 120, "it runs again")
    assert job_of(made, run) == job
    made.until(made.is_(run, "COMPLETED"), 60, "it completes")


def test_a_preempted_run_waits_for_its_better_and_goes_on(made, cluster, hold):
    run = hold(12)
    made.until(made.begun(run), 60, "it runs")
    script = made.home / "urgent.sh"
    script.write_text("#!/bin/sh\nsleep 15\n")
    wanted = ("--partition=urgent", "--gres=gpu:2", "--mem=1G", f"--output={made.home}/urgent.log")
    cluster.command("sbatch", *wanted, str(script))
    made.until(made.is_(run, "SCHEDULED"), 60, "it waits")
    made.until(lambda: made.state(run)["name"] == "Waiting", 20, "it says why")
    made.until(made.begun(run, 2), 120, "it runs again")
    made.until(made.is_(run, "COMPLETED"), 60, "it completes")
    assert "crashed" not in [state.lower() for state in made.told(run)]


def test_a_run_whose_process_is_killed_goes_on_on_its_gpu(made, hold):
    run = hold(8)
    made.until(made.begun(run), 60, "it runs")
    job, slot = job_of(made, run), made.of(run)[0]["slot"]
    os.kill(made.pid(run), signal.SIGKILL)
    made.until(made.begun(run, 2), 60, "it runs again")
    assert job_of(made, run) == job
    made.until(made.is_(run, "COMPLETED"), 60, "it completes")
    assert made.of(run)[1]["slot"] == slot


def test_a_job_that_is_killed_with_all_its_processes_is_handed_over_again(made, hold):
    run = hold(8)
    made.until(made.begun(run), 60, "it runs")
    job = job_of(made, run)
    for pid in (*workers_of(run), made.pid(run)):
        os.kill(pid, signal.SIGKILL)
    made.until(lambda: job_of(made, run) not in (job, "None"), 60, "it has another job")
    made.until(made.is_(run, "COMPLETED"), 120, "it completes")
    assert len(made.of(run)) == 2


def test_the_service_may_die_at_any_time(made, hold):
    running, waiting = hold(15), hold(1, when_busy="wait")
    made.until(made.begun(running), 60, "it runs")
    made.kill(made.workers["slurm"])
    made.until(made.is_(running, "COMPLETED"), 60, "it completes without the service")
    serve(made)
    made.until(made.is_(waiting, "COMPLETED"), 60, "the other one completes")
    assert len(made.of(running)) == len(made.of(waiting)) == 1


def test_a_service_that_dies_right_after_sbatch_hands_nothing_over_twice(made, cluster, hold, tmp_path):
    real = next(f"{folder}/sbatch" for folder in os.environ["PATH"].split(":") if Path(folder, "sbatch").exists())
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        f'#!/bin/sh\n{real} "$@"\n[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 $PPID; }}\n'
    )
    sbatch.chmod(0o755)
    made.kill(made.workers["slurm"])
    serve(made, PATH=f"{tmp_path}:{os.environ['PATH']}")
    run = hold(5)
    made.until(lambda: made.workers["slurm"].poll() is not None, 60, "the service is dead")
    serve(made)
    made.until(made.is_(run, "COMPLETED"), 90, "it completes")
    listed = cluster.command("squeue", "--states=all", "--noheader", "--format=%k").splitlines()
    assert len([comment for comment in listed if run in comment]) == 1
    assert len(made.of(run)) == 1


def test_runs_stay_as_they_are_while_slurm_is_away(made, cluster, hold):
    run = hold(25)
    made.until(made.begun(run), 60, "it runs")
    cluster.stop("slurmctld")
    late = hold(1)
    made.until(lambda: "does not answer" in (made.state(late)["message"] or ""), 90, "the other one says so")
    assert made.state(run)["type"] in {"RUNNING", "COMPLETED"}
    cluster.start()
    for one in (run, late):
        made.until(made.is_(one, "COMPLETED"), 120, "it completes")
        assert len(made.of(one)) == 1
    said = (made.home / "slurm.log").read_text()
    assert said.count("Slurm does not answer") == 1
    assert said.count("Slurm answers again") == 1


def test_the_runs_own_time_limit_comes_before_slurms(made, hold):
    run = hold(300, time_limit="4s")
    made.until(lambda: made.state(run)["name"] == "TimedOut", 60, "its time is over")
    assert made.state(run)["message"] == "stopped after 4 s, its time limit; what it saved is kept"


def test_slurms_time_limit_is_said_to_be_slurms(made, cluster, hold):
    run = hold(600)
    made.until(made.begun(run), 60, "it runs")
    job = job_of(made, run)
    cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    made.until(lambda: made.state(run)["name"] == "TimedOut", 240, "its time is over")
    assert (
        made.state(run)["message"] == f"Slurm job {job} was stopped by Slurm at its time limit; what it saved is kept"
    )


def test_a_gpu_that_somebody_else_holds_is_said_in_a_sentence(made, hold, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(made.home / "locks"))
    holders = [
        lease.acquire(
            f"GPU-simulated-{n}",
            "training",
            1,
            Holder("x", "resnet", "anna@boxa", f"cuda:{n}", "", "training", -1, os.getpid(), 0.0, None),
        )
        for n in (0, 1)
    ]
    try:
        run = hold(1)
        made.until(made.is_(run, "FAILED"), 120, "it fails")
        assert "which run resnet of anna@boxa holds" in made.state(run)["message"]
    finally:
        for held in holders:
            assert held is not None
            held.release()


def test_a_run_without_a_gpu_gets_none(made, hold):
    run = hold(1, queue=CPU)
    made.until(made.is_(run, "COMPLETED"), 60, "it completes")
    assert made.of(run)[0]["visible"] == ""


def worker_for_pipelines(made: Yard) -> None:
    if "one" not in made.workers:
        made.start_worker("one")
    made.until(lambda: made.serves("one"), 120, "a worker for the pipeline serves")


def test_a_training_on_two_gpus_is_one_job_that_holds_both_and_goes_on_after_a_requeue(
    made, cluster, hold, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(made.home / "locks"))
    write_bands(tmp_path / "bands")
    worker_for_pipelines(made)
    small = small_classification(60)
    parameters = {**small, "data": str(tmp_path / "bands"), "track": {"experiment": "two"}}
    parameters["train"] |= {"n_devices": 2, "checkpoint_every_s": 0.1}
    run = made.submit("classification", "cpu.pipeline", parameters, on="slurm", **SMALL)
    training = made.home / "runs" / run / "training"
    made.until(lambda: (training / "checkpoint.pt").exists() or made.is_(run, *FINAL)(), 240, "it has a checkpoint")
    (job,) = cluster.command("squeue", "--noheader", "--format=%i %b", "--states=R").splitlines()
    assert job.split()[1] == "gres:gpu:2"
    held = {holder.uuid: holder for holder in lease.holders() if holder.uuid != "cpu"}  # which the pipeline has
    assert held.keys() == {"GPU-simulated-0", "GPU-simulated-1"}
    assert len({holder.run_id for holder in held.values()}) == 1
    late = hold(1)
    made.until(lambda: "(Resources)" in (made.state(late)["message"] or ""), 30, "another one waits for a GPU")
    cluster.command("scontrol", "requeue", job.split()[0])
    made.until(made.is_(run, *FINAL), 300, "it ends")
    assert made.state(run)["type"] == "COMPLETED", made.state(run)
    assert validated(made, "two") == list(range(1, 61))
    made.until(made.is_(late, "COMPLETED"), 90, "and the other one has run")


def validated(made: Yard, experiment: str) -> list[int]:
    """Return the epochs of the only run of an experiment in MLflow, in their order."""
    of = "from runs r join experiments e using (experiment_id)"
    with closing(sqlite3.connect(made.home / "mlflow.db")) as database:
        (run,) = database.execute(f"select r.run_uuid {of} where e.name = ?", (experiment,)).fetchall()
        found = "select step from metrics where key = 'loss/val' and run_uuid = ? order by step"
        return [step for (step,) in database.execute(found, run)]


def test_a_pipeline_goes_on_from_its_checkpoint_in_the_same_mlflow_run(made, cluster, tmp_path):
    write_bands(tmp_path / "bands")
    worker_for_pipelines(made)
    parameters = {**small_classification(40), "data": str(tmp_path / "bands")}
    run = made.submit("classification", "cpu.pipeline", parameters, on="slurm", **SMALL)
    training = made.home / "runs" / run / "training"
    made.until(lambda: (training / "checkpoint.pt").exists() or made.is_(run, *FINAL)(), 240, "it has a checkpoint")
    jobs = cluster.command("squeue", "--noheader", "--format=%i %j").splitlines()
    assert jobs, made.tails()
    cluster.command("scontrol", "requeue", jobs[0].split()[0])
    made.until(made.is_(run, *FINAL), 300, "it ends")
    assert made.state(run)["type"] == "COMPLETED", made.state(run)
    assert validated(made, "bands") == list(range(1, 41))
