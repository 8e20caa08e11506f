"""kill -9 at any batch and start again: the same weights, the same MLflow run, every epoch once."""

import json
import random
from collections import Counter

import pytest
import torch

from tests.runners import ends_of
from tests.samples import write_subsets

N_EPOCHS, N_BATCHES = 4, 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_subsets(tmp_path_factory.mktemp("data"), 32, train=12, val=4)


def training(home, name):
    return home / "runs" / name / "training"


def epochs(home, name):
    rows = json.loads((training(home, name) / "finished.json").read_text())["history"]
    timed = {"seconds", "images_per_s", "wait_share", "memory_mib"}
    return [{k: v for k, v in row["metrics"].items() if k not in timed} for row in rows]


def logged_rows(home, name):
    """Return MLflow's rows per (key, step) of the one run called `name`."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kill")
    runs = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == name]
    assert [r.info.status for r in runs] == ["FINISHED"]
    # An attempt that was left nothing but the validation of an epoch has timed no batch of it: no pace then.
    keys = [key for key in runs[0].data.metrics if not key.startswith(("system/", "speed/"))]
    return Counter((key, m.step) for key in keys for m in client.get_metric_history(runs[0].info.run_id, key))


def check_same(home, dataset, kills):
    left = [training(home, "killed") / name for name in (".checkpoint.pt.torn", ".best-0001.pt.torn", "best-0099.pt")]
    left[0].parent.mkdir(parents=True)
    for path in left:
        path.write_bytes(b"what a kill leaves")
    runner, runs = "tests.tasks.classification.kill_runner", {"whole": [0], "killed": [*kills, 0]}
    assert ends_of(runner, dataset, N_EPOCHS, runs=runs, timeout=280, TRAINYARD_HOME=home) == [0, *[9] * len(kills), 0]
    assert not [path.name for path in training(home, "killed").iterdir() if path.name.startswith((".", "best-"))]
    assert epochs(home, "killed") == epochs(home, "whole")
    for name in ("best.pt", "last.pt"):
        ours, theirs = (torch.load(training(home, run) / name, weights_only=True) for run in ("killed", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    rows = logged_rows(home, "killed")
    assert rows == logged_rows(home, "whole")
    assert {step for key, step in rows if key == "loss/train"} == set(range(1, N_EPOCHS + 1))
    assert set(rows.values()) == {1}


def test_two_kills_at_random_batches_change_nothing(tmp_path, dataset):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    # Within the epoch that an attempt starts in, or after it: each attempt may get one epoch further, or none.
    kills = [random.Random(seed).randint(1, N_BATCHES + 1) for _ in range(2)]
    check_same(tmp_path, dataset, kills)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(6))
def test_many_kills_change_nothing(tmp_path, dataset, seed):
    kills = [random.Random(seed).choice([1, 1, 2, 2, 3]) for _ in range(10)]
    check_same(tmp_path, dataset, kills)
