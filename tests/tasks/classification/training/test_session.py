"""A training in its folder: stopped when asked, gone on from, and told before it starts when it cannot work."""

import itertools
import json

import numpy as np
import pytest
import torch

from tasks.base.errors import ConfigError, Interrupted
from tasks.base.progress import Note, Progress
from tasks.classification.grading.answers import load_model
from tasks.classification.grading.temperature import fit_temperature
from tasks.classification.params import TrainParams
from tasks.classification.training.forward import predict
from tasks.classification.training.session import TrainingSession
from tasks.training.events import BatchDone, EpochDone
from tasks.training.rng_state import generator_states, set_generator_states
from tests.samples import after, run_until, write_subsets

SMALL = {
    "model": "mobilenet_v3_small",
    "pretrained": False,
    "image_size": 32,
    "batch_size": 4,
    "num_epochs": 3,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "device": "cpu",
    "n_workers": 1,
}


@pytest.fixture
def dataset(tmp_path):
    return write_subsets(tmp_path / "data", 32, train=4, val=4)


@pytest.fixture
def session(tmp_path, dataset):
    """A function that makes the session of a folder; no time passes in it, so it never saves by the clock."""

    def make(folder="run", stop_asked=None, data=dataset, **values) -> TrainingSession:
        extra = {} if stop_asked is None else {"stop_asked": stop_asked}
        params = TrainParams(**{**SMALL, **values})
        device = torch.device("cpu")
        return TrainingSession(
            data, tmp_path / folder, params, device, cache=tmp_path / "cache", clock_ms=lambda: 0, **extra
        )

    return make


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


@pytest.mark.parametrize("n_batches", [1, 2, 3])
def test_a_session_stopped_when_asked_and_resumed_ends_with_the_same_weights(session, tmp_path, n_batches):
    options = {"ema_decay": 0.9, "mixup": 0.2, "schedule": "cosine"}
    list(session("whole", **options).run())
    seen = run_until(session("stopped", **options), after(n_batches, BatchDone))
    assert sum(isinstance(event, BatchDone) for event in seen) == n_batches
    torch.rand(7)  # the generators of a new process stand elsewhere
    list(session("stopped", **options).run())
    for name in ("best.pt", "last.pt"):
        ours, theirs = weights(tmp_path / "stopped", name), weights(tmp_path / "whole", name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_a_stop_asked_for_at_the_end_of_an_epoch_keeps_the_epoch(session, tmp_path):
    first = session()
    run_until(first, after(1, EpochDone))
    again = session()
    done = [event.metrics.epoch for event in again.run() if isinstance(event, EpochDone)]
    assert [row.metrics.epoch for row in first.history] == [1]
    assert done == [2, 3]
    assert [row.metrics.epoch for row in again.history] == [1, 2, 3]


def test_a_signal_in_the_validation_keeps_the_batches_before_it(session, tmp_path, monkeypatch):
    list(session("whole").run())
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 4:  # the second batch of the second validation
            raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr("tasks.classification.training.forward.look", look)
    with pytest.raises(Interrupted):
        list(session("stopped").run())
    assert weights(tmp_path / "stopped", "checkpoint.pt")["trainer"]["position"] == {"epoch": 2, "batch": 2, "step": 4}
    list(session("stopped").run())
    for name in ("best.pt", "last.pt"):
        ours, theirs = weights(tmp_path / "stopped", name), weights(tmp_path / "whole", name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_a_stop_asked_for_while_files_are_read_leaves_the_checkpoint(session, tmp_path):
    run_until(session(), after(1, BatchDone))
    seen = run_until(session(), after(3, Progress))
    assert sum(isinstance(event, Progress) for event in seen) == 3
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    list(session().run())
    assert (tmp_path / "run" / "best.pt").is_file()


def test_nothing_but_a_sample_is_read_before_the_first_batch(session, dataset, monkeypatch):
    monkeypatch.setattr("tasks.classification.data.keeping._SAMPLE", 1)
    read = []
    monkeypatch.setattr(
        "tasks.classification.data.subset_images.read_bytes", lambda path: read.append(path) or path.read_bytes()
    )
    training = session(batch_size=2, n_workers=1)
    first = next(event for event in training.run() if isinstance(event, BatchDone))
    assert first.batch == 1
    assert not [path for path in read if "val" in path.parts]


@pytest.mark.parametrize("keep", ["memory", "disk", "nowhere"])
def test_weights_are_the_same_wherever_pictures_are_kept_and_also_gone_on_from(session, tmp_path, keep, monkeypatch):
    list(session("measured").run())
    monkeypatch.setattr("tasks.classification.data.keeping.decide", lambda *_: keep)
    seen = run_until(session("kept"), after(3, BatchDone))
    assert any(isinstance(event, Note) and event.text.startswith(f"cache: {keep}: ") for event in seen)
    list(session("kept").run())
    ours, theirs = weights(tmp_path / "kept", "last.pt"), weights(tmp_path / "measured", "last.pt")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_data_that_changed_is_refused_by_a_checkpoint(session, dataset):
    run_until(session(), after(2, BatchDone))
    picture = dataset / "val" / "b" / "3.png"
    picture.write_bytes((dataset / "val" / "b" / "2.png").read_bytes())
    with pytest.raises(ConfigError, match="belongs to another training .data "):
        list(session().run())


def test_a_stop_asked_for_after_the_last_epoch_lets_the_training_finish(session):
    asked = []
    whole = session(stop_asked=lambda: bool(asked))
    for event in whole.run():
        if isinstance(event, EpochDone) and event.metrics.epoch == 3:
            asked.append(True)
    assert whole.finished


def test_a_batch_of_one_that_batch_norm_cannot_take_is_an_error_before_anything_is_read(session, tmp_path):
    events = session(batch_size=1).run()
    with pytest.raises(ConfigError, match=r"image_size 32: .*found batch_size 1 and 8 training image"):
        next(events)
    assert not (tmp_path / "cache").exists()


def test_a_batch_of_one_trains_where_the_images_are_large_enough(session):
    list(session(batch_size=1, image_size=64, num_epochs=1).run())


@pytest.mark.parametrize("batch_size", [7, 2])
def test_a_last_batch_of_one_joins_the_one_before(session, dataset, batch_size):
    if batch_size == 2:
        (dataset / "train" / "a" / "0.png").unlink()  # seven are left
    (done,) = [e for e in session(batch_size=batch_size, num_epochs=1).run() if isinstance(e, EpochDone)]
    assert np.isfinite(done.metrics.train_loss)


def test_one_training_image_in_all_is_an_error_that_says_so(session, dataset):
    for path in [*(dataset / "train" / "a").iterdir(), *list((dataset / "train" / "b").iterdir())[1:]]:
        path.unlink()
    with pytest.raises(ConfigError, match=r"batch_size 4 and 1 training image"):
        next(session().run())


def test_what_does_not_change_the_result_may_change_before_the_resumption(session, tmp_path):
    list(session("whole").run())
    run_until(session("moved"), after(2, BatchDone))
    list(session("moved", n_workers=2, checkpoint_every_s=7, description="moved to another host").run())
    ours, theirs = weights(tmp_path / "moved", "last.pt"), weights(tmp_path / "whole", "last.pt")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_no_crash_costs_more_than_the_time_between_checkpoints_however_slow_writing_is(session, tmp_path):
    times = itertools.count()  # a second between two looks at the clock: a checkpoint costs one, 1 % are 100 s
    training = session("slow", num_epochs=12, batch_size=8, checkpoint_every_s=4)
    training._clock_ms = lambda: 1000 * next(times)
    path, ages, written = tmp_path / "slow" / "checkpoint.pt", [], 0
    for event in training.run():
        if isinstance(event, BatchDone | EpochDone):
            ages.append(0 if path.is_file() and path.stat().st_mtime_ns != written else ages[-1] + 1 if ages else 1)
            written = path.stat().st_mtime_ns if path.is_file() else 0
    assert max(ages) < 4


@pytest.mark.parametrize("stopped", [False, True])
def test_the_temperature_is_that_of_the_best_weights_on_the_validation_part(session, tmp_path, stopped, dataset):
    # Twins of one label each: no model answers all of them rightly.
    for i in range(4):
        (dataset / "val" / "b" / f"{i}.png").write_bytes((dataset / "val" / "a" / f"{i}.png").read_bytes())
    training = session(num_epochs=2)
    if stopped:
        run_until(training, after(1, EpochDone))
        training = session(num_epochs=2)
    list(training.run())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    model = load_model(tmp_path / "run" / "best.pt", config)
    found = list(predict(model, training._batches("val", join_last=False), torch.device("cpu"), "fp32"))
    logits, labels = (torch.cat([row[i] for row in found]).numpy() for i in (0, 1))
    wanted = fit_temperature(logits, labels)
    assert config["temperature"] == (None if wanted is None else pytest.approx(wanted, rel=1e-6))


def test_best_weights_of_short_epochs_are_written_with_the_checkpoint(session, tmp_path):
    training, seen = session(num_epochs=3), []
    training.checkpoint.cost_s = 1e6  # so dear that no epoch is worth it
    for event in training.run():
        if isinstance(event, EpochDone):
            seen.append(sorted(path.name for path in (tmp_path / "run").glob("*.pt")))
    assert seen == [[], [], []]
    assert (tmp_path / "run" / "best.pt").is_file()


def test_other_parameters_are_refused_by_name(session):
    run_until(session(), after(2, BatchDone))
    with pytest.raises(ConfigError, match=r"belongs to another training \(learning_rate 0.001 -> 0.002\)"):
        list(session(learning_rate=2e-3).run())


def test_a_training_in_fp16_does_not_go_on_on_a_cpu(session, tmp_path):
    run_until(session(), after(1, BatchDone))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    saved["trainer"]["precision"] = "fp16"  # as on a GPU without bf16
    torch.save(saved, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ConfigError, match="began in fp16, which needs a GPU: found device cpu"):
        list(session().run())


def test_a_checkpoint_from_before_temperatures_is_gone_on_from(session, tmp_path):
    run_until(session(), after(1, EpochDone))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    del saved["trainer"]["best"]["temperature"]
    torch.save(saved, tmp_path / "run" / "checkpoint.pt")
    list(session().run())
    assert "temperature" in json.loads((tmp_path / "run" / "config.json").read_text())


def test_what_a_cpu_drew_from_is_enough_to_go_on_on_a_gpu():
    states = generator_states(torch.device("cpu"))
    wanted = torch.rand(3)
    set_generator_states(states, torch.device("cuda"))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("way", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_training_goes_on_on_another_kind_of_device(session, way):
    first, then = session(), session()
    first.device, then.device = (torch.device(name) for name in way)
    run_until(first, after(3, BatchDone))
    done = [event.metrics.epoch for event in then.run() if isinstance(event, EpochDone)]
    assert done == [2, 3]
