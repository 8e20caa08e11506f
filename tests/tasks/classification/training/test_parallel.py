"""A training in several processes: what it leaves, how it ends when one of them fails, and how it goes on."""

import json

import pytest
import torch

from tasks.base.errors import TrainyardError
from tasks.base.progress import Note
from tasks.classification.params import TrainParams
from tasks.classification.training.session import TrainingSession
from tasks.run.checkpoint import load_tensors
from tasks.training.events import BatchDone, EpochDone
from tests.samples import after, run_until, write_subsets
from tests.together import end_of_both, handed_on, helpers

CPU = torch.device("cpu")
SMALL = {
    "model": "resnet18",
    "pretrained": False,
    "image_size": 64,
    "batch_size": 6,
    "num_epochs": 3,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "precision": "fp32",
    "device": "cuda",
    "n_workers": 1,
}


@pytest.fixture
def dataset(tmp_path):
    return write_subsets(tmp_path / "data", 64, train=9, val=9)


def session(dataset, folder, **values) -> TrainingSession:
    params = TrainParams(**{**SMALL, **values})
    return TrainingSession(
        dataset, dataset.parent / folder, params, CPU, cache=dataset.parent / "cache", clock_ms=lambda: 0
    )


def epochs(events) -> list:
    return [event.metrics for event in events if isinstance(event, EpochDone)]


def test_two_processes_leave_what_one_does_and_another_number_goes_on(dataset, tmp_path):
    alone = epochs(session(dataset, "alone").run())
    # Stopped in the second epoch by two processes, gone on from by one, and to the end by two again.
    run_until(session(dataset, "shared", n_devices=2), after(5, BatchDone))
    assert load_tensors(tmp_path / "shared" / "checkpoint.pt")["trainer"]["position"]["step"] == 5
    last, seen = handed_on(lambda n: session(dataset, "shared", n_devices=n), [(1, after(2, BatchDone))], last=2)
    assert Note("trains in 2 processes, each on a share of every batch") in seen[1]
    together = [row.metrics for row in last.history]
    assert [row.epoch for row in together] == [1, 2, 3]
    for one, other in zip(alone, together, strict=True):
        # In float32 two orders of summing part by so much in so deep a net; in float64 they do not.
        assert other.train_loss == pytest.approx(one.train_loss, rel=0.03)
    own, theirs = (load_tensors(tmp_path / name / "last.pt") for name in ("alone", "shared"))
    assert own.keys() == theirs.keys()
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        path.name for path in (tmp_path / "shared").iterdir()
    }
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["classes"] == ["a", "b"]


def test_an_image_that_only_another_process_reads_is_named(dataset, monkeypatch):
    monkeypatch.setattr("tasks.classification.data.keeping._SAMPLE", 1)  # else this process meets it at the start
    training = session(dataset, "run", n_devices=2, shuffle=False, batch_size=18)
    broken = training.dataset / "train" / "b" / "8.png"  # the last of the only batch
    broken.write_bytes(b"not an image")
    with pytest.raises(TrainyardError, match=r"process 2 of 2 failed: .*8\.png"):
        list(training.run())
    assert not helpers()


SCRIPT = """
import sys, time
from pathlib import Path
import torch
from tasks.classification.params import TrainParams
from tasks.classification.training.session import TrainingSession
from tasks.training.events import BatchDone
from tests.tasks.classification.training.test_parallel import SMALL
data = Path(sys.argv[1])
params = TrainParams(**{**SMALL, "n_devices": 2, "num_epochs": 1000, "checkpoint_every_s": 0.1})
session = TrainingSession(
    data, data.parent / "run", params, torch.device("cpu"), cache=data.parent / "cache",
    clock_ms=lambda: int(1000 * time.time()),
)
for event in session.run():
    if isinstance(event, BatchDone):
        print(event.epoch, flush=True)
"""


@pytest.mark.parametrize("who", ["helper", pytest.param("first", marks=pytest.mark.long)])
def test_a_kill_of_one_process_ends_all_and_the_training_goes_on(dataset, tmp_path, who):
    end_of_both(SCRIPT, dataset, reached=2, who=who)
    again = session(dataset, "run", num_epochs=1000)
    notes = (event.text for event in again.run() if isinstance(event, Note))
    assert any(text.startswith("goes on at epoch") for text in notes)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"device": "cuda:1"}, "needs device cuda or HOST/cuda, found 'cuda:1'"),
        ({"device": "cpu"}, "needs device cuda or HOST/cuda, found 'cpu'"),
        ({"batch_size": 1}, "needs a batch_size of at least that, found 1"),
        ({"compile": True}, "compile works on one device"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        TrainParams(**{**SMALL, "n_devices": 2, **values})
    assert TrainParams(**{**SMALL, "n_devices": 2, "device": "boxb/cuda"}).n_processes == 2
