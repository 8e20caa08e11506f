"""Several hosts on one server and one home: who runs where, and what becomes of runs whose host is cut off or dies."""

import json
import time
from pathlib import Path

import mlflow
import pytest

from deployments.services.service import free_port
from tasks.tracking.mlflow_names import FLOW_RUN
from tests.chaos.yard import Yard
from tests.hosts.lab import lab
from tests.samples import SMALL_TRAINING, write_bands

pytestmark = [pytest.mark.yard, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with lab(tmp_path_factory.mktemp("lab"), free_port()) as running:
        yield running


def hosts(made: Yard, run_id: str) -> list[str]:
    """Return the hosts on which a run had processes, in their order."""
    return [span["host"] for span in made.of(run_id)]


def test_a_run_for_a_device_of_a_host_runs_there(made):
    runs = {where: made.hold(f"{where}.training", 0.2) for where in ("boxa.cuda:0", "boxb.cuda:1", "boxb.cuda:0")}
    for where, run in runs.items():
        made.until(made.is_(run, "COMPLETED"), 120, f"{where} has run")
        (span,) = made.of(run)
        assert (span["host"], span["visible"]) == (where[:4], f"GPU-simulated-{where[-1]}")


def test_runs_for_any_gpu_use_those_of_all_hosts_and_the_idle_host_first(made):
    pair = [made.hold("cuda.training", 8) for _ in range(2)]
    for run in pair:
        made.until(made.begun(run), 120, "both begin")
    assert {hosts(made, run)[0] for run in pair} == {"boxa", "boxb"}
    rest = [made.hold("cuda.training", 3) for _ in range(4)]
    for run in (*pair, *rest):
        made.until(made.is_(run, "COMPLETED"), 120, "all are done")
    held: dict[tuple[str, str], float] = {}
    for span in sorted((made.of(run)[0] for run in (*pair, *rest)), key=lambda span: span["begin"]):
        slot = span["host"], span["slot"]
        assert span["begin"] > held.get(slot, 0.0), "two runs had one slot"
        held[slot] = span["last"]
    assert len(held) == 4


@pytest.mark.parametrize("host", ["boxa", "boxb"])
def test_a_pipeline_on_a_host_whose_clock_is_wrong_waits_for_no_clock(made, host):
    made.deploy_classification()
    data = made.home / "raw"
    if not data.is_dir():
        write_bands(data)
    parameters = {"data": str(data), "augment": {"enabled": False}, "train": {**SMALL_TRAINING, "device": "cuda"}}
    begun = time.monotonic()
    run = made.submit("classification", f"{host}.cpu.pipeline", parameters)
    made.until(made.is_(run, "COMPLETED"), 150, "it is done")
    print(f"{host}: {time.monotonic() - begun:.0f} s")


def test_a_host_that_is_cut_off_goes_on_with_its_run_and_nobody_else_does(made):
    run = made.hold("boxa.cuda:0.training", 130)
    free = made.hold("boxa.cuda:1.training", 130)
    for one in (run, free):
        made.until(made.begun(one), 120, "they begin")
    made.hosts["boxa"].plug(cable=False)
    behind = made.hold("boxa.cuda:0.training", 0.2)
    elsewhere = [made.hold("cuda.training", 1) for _ in range(3)]
    for one in elsewhere:
        made.until(made.is_(one, "COMPLETED"), 120, "the other host goes on")
        assert hosts(made, one) == ["boxb"]
    said = "boxa/cuda:0 waits for a worker on boxa: none is online"
    made.until(lambda: made.state(behind)["message"] == said, 180, "it is said that boxa is away")
    before = made.of(run)[0]["last"]
    made.until(lambda: made.of(run)[0]["last"] > before + 2, 30, "the run goes on")
    made.hosts["boxa"].plug(cable=True)
    for one in (run, free, behind):
        made.until(made.is_(one, "COMPLETED"), 180, "all are done")
    assert hosts(made, run) == hosts(made, free) == ["boxa"]
    assert made.of(behind)[0]["begin"] > made.of(run)[0]["last"]
    assert not {"Crashed", "Failed"} & {*made.told(run), *made.told(free)}


def test_a_worker_that_dies_leaves_its_runs_to_the_next_one_of_its_host(made):
    kept, cancelled = made.hold("boxb.cuda:0.training", 40), made.hold("boxb.cuda:1.training", 600)
    for run in (kept, cancelled):
        made.until(made.begun(run), 120, "they begin")
    made.kill_worker("boxb")
    time.sleep(12)  # the other host's worker looks for what dead ones have left every five seconds
    assert (made.home / "worker" / "boxb" / f"{kept}.json").is_file()
    made.cancel(cancelled)
    again = made.start_worker_again("boxb")
    made.until(made.is_(cancelled, "CANCELLED"), 120, "the next worker cancels it")
    made.until(made.is_(kept, "COMPLETED"), 120, "it is done")
    assert hosts(made, kept) == ["boxb"]
    assert again.poll() is None


def test_the_runs_of_a_host_that_dies_go_on_elsewhere_unless_they_are_its_own(made):
    free = made.hold("cuda.inference", 600)
    made.until(made.begun(free), 120, "it begins")
    (home,) = hosts(made, free)
    (other,) = {"boxa", "boxb"} - {home}
    own, cancelled = made.hold(f"{home}.cuda:0.training", 20), made.hold(f"{home}.cuda:1.training", 600)
    for run in (own, cancelled):
        made.until(made.begun(run), 120, "they begin")
    made.kill(made.workers[home])
    made.cancel(cancelled)
    made.until(made.begun(free, 2), 240, "the other host goes on with it")
    assert hosts(made, free) == [home, other]
    made.until(made.is_(cancelled, "CANCELLED"), 60, "a cancelled run is cancelled without its host")
    made.until(lambda: "none is online" in (made.state(own)["message"] or ""), 60, "its own run waits for it")
    assert made.state(own)["name"] == "Waiting"
    made.cancel(free)
    made.start_host(home)
    made.until(made.begun(own, 2), 240, "the host is back and goes on")
    made.until(made.is_(own, "COMPLETED"), 120, "it is done")
    assert hosts(made, own) == [home, home]
    made.until(made.is_(free, "CANCELLED"), 60, "the other one is cancelled")


def test_the_metrics_of_a_training_that_was_cut_off_arrive_later_each_once(made, tmp_path):
    for part in ("train", "val", "test"):
        write_bands(tmp_path / part)
    made.deploy_classification()
    train = {**SMALL_TRAINING, "num_epochs": 60, "batch_size": 4, "device": "boxa/cuda"}
    run = made.submit("train_classifier", "boxa.cuda:0.training", {"dataset": str(tmp_path), "train": train})
    rows = made.home / "runs" / run / "training" / "journal.jsonl"
    made.until(lambda: _epochs(rows) >= 3, 180, "some epochs are over")
    made.hosts["boxa"].plug(cable=False)
    before = _epochs(rows)
    made.until(lambda: _epochs(rows) >= min(60, before + 10), 120, "it trains on")
    made.hosts["boxa"].plug(cable=True)
    made.until(made.is_(run, "COMPLETED"), 240, "it is done")
    client = mlflow.MlflowClient(made.mlflow)
    experiment = client.get_experiment_by_name("classification")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id], f"tags.`{FLOW_RUN}` = '{run}'")
    history = client.get_metric_history(tracked.info.run_id, "loss/train")
    assert [metric.step for metric in history] == list(range(1, 61))
    assert tracked.info.status == "FINISHED"


def test_runs_and_workers_follow_a_server_that_moves(made):
    runs = [made.hold(f"{host}.cuda:0.training", 20) for host in ("boxa", "boxb")]
    for run in runs:
        made.until(made.begun(run), 120, "both begin")
    made.move_server()
    late = made.hold("boxb.cuda:1.training", 0.2)
    for run in (*runs, late):
        made.until(made.is_(run, "COMPLETED"), 180, "all are done")
        assert len(made.of(run)) == 1


def _epochs(journal: Path) -> int:
    """Return how many epochs are in the journal of a training."""
    if not journal.is_file():
        return 0
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return sum("loss/train" in json.dumps(line) for line in lines)
