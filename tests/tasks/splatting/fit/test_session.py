"""A fit in its folder: stopped when asked, gone on from, refused with other data, and its files for others."""

import csv
import json

import numpy as np
import pytest
import torch

from tasks.base.errors import ConfigError, StorageError
from tasks.base.progress import Note, Progress
from tasks.run.checkpoint import save_tensors
from tasks.run.resume_point import FINISHED
from tasks.splatting.fit.fit_events import MeasurementDone, StepsDone
from tasks.splatting.fit.session import CAMERAS, EXPOSURES, GAUSSIANS, METRICS, FitSession
from tasks.splatting.params import FREE_TO_CHANGE, SplatParams
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.splatting.render.gaussians import Gaussians
from tests.samples import after, finished, run_until
from tests.tasks.splatting.fit_scene import make_scene

SMALL = {"preset": "quick", "max_steps": 80, "cap_max": 400, "test_every": 4, "eval_every": 30, "device": "cpu"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def session(tmp_path, scene):
    """A function that makes the session of a folder; no time passes in it, so it never saves by the clock."""

    def make(folder="run", *, data=scene, checkpoint_every_s=60.0, **values) -> FitSession:
        params = SplatParams(**{**SMALL, **values})
        options = {"clock_ms": lambda: 17, "clock": lambda: 0.0, "checkpoint_every_s": checkpoint_every_s}
        return FitSession(
            data, tmp_path / folder, params, torch.device("cpu"), rasterizer=CpuRasterizer(num_threads=1), **options
        )

    return make


def same(one: Gaussians, other: Gaussians) -> bool:
    return all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


@pytest.mark.parametrize("kind", [StepsDone, MeasurementDone])
def test_a_session_stopped_when_asked_and_resumed_ends_with_the_same_gaussians(session, kind):
    list(session("whole").run())
    run_until(session("stopped"), after(2, kind))
    torch.rand(7)  # the generators of a new process stand elsewhere
    resumed = session("stopped")
    events = list(resumed.run())
    assert any(isinstance(event, Note) and event.text.startswith("goes on after step") for event in events)
    assert same(session("whole").gaussians(), resumed.gaussians())
    whole = session("whole")
    whole.load_finished()
    assert [row.metrics.psnr for row in resumed.history] == [row.metrics.psnr for row in whole.history]
    assert [row.metrics.train_loss for row in resumed.history] == [row.metrics.train_loss for row in whole.history]


def test_a_session_asked_to_stop_while_reading_stops_there(session):
    seen = run_until(session(), after(3, Progress))
    assert [event.done for event in seen] == [1, 2, 3]


def test_the_folder_of_a_finished_fit_holds_what_people_use(session, tmp_path):
    made = session(exposure_opt=True, pose_opt=True)
    list(made.run())
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(
        [GAUSSIANS, METRICS, EXPOSURES, CAMERAS, FINISHED]
    )
    saved = torch.load(made.folder / GAUSSIANS, weights_only=True)["splats"]
    assert set(saved) == {"means", "scales", "quats", "opacities", "sh0", "shN"}
    rows = list(csv.DictReader((made.folder / METRICS).open()))
    assert [int(row["step"]) for row in rows] == [30, 60, 80]
    assert float(rows[-1]["psnr"]) == made.result.metrics.psnr
    assert rows[0]["timestamp_ms"] == "17"
    trained = [view.camera.name for i, view in enumerate(made.scene.views) if i % 4]
    for name in (EXPOSURES, CAMERAS):
        assert list(json.loads((made.folder / name).read_text())) == trained


def test_a_finished_fit_is_read_again_as_it_was(session):
    made, again = finished(session)
    assert again.result == made.result
    assert [(row.metrics, row.timestamp_ms) for row in again.history] == [
        (row.metrics, row.timestamp_ms) for row in made.history
    ]


def test_refined_cameras_are_given_with_the_others_as_they_were(session, scene):
    made = session(pose_opt=True, pose_opt_lr=1e-3)
    list(made.run())
    moves = [
        np.abs(camera.world_to_camera - view.camera.world_to_camera).max()
        for camera, view in zip(made.cameras(), scene.views, strict=True)
    ]
    assert [move == 0 for move in moves] == [i % 4 == 0 for i in range(12)]
    assert max(moves) < 0.1


@pytest.mark.parametrize("change", [{"seed": 5}, {"means_lr": 0.5}, {"strategy": "default"}])
def test_a_checkpoint_of_other_parameters_is_refused_by_their_names(session, change):
    run_until(session(), after(1, StepsDone))
    with pytest.raises(ConfigError, match=next(iter(change))):
        list(session(**change).run())


def test_a_checkpoint_of_other_pictures_is_refused(session, tmp_path):
    run_until(session(), after(1, StepsDone))
    other = make_scene(tmp_path / "other", gains=np.linspace(0.9, 1, 12))
    with pytest.raises(ConfigError, match="belongs to another training \\(data "):
        list(session(data=other).run())


def test_what_may_change_may_change(session):
    run_until(session(), after(1, StepsDone))
    change = {"device": "cuda:1", "num_threads": 1, "min_psnr": 3.0}
    assert {*change, "n_devices", "n_hosts"} == FREE_TO_CHANGE  # the number of processes: test_parallel.py
    assert list(session(**change).run())


def test_a_damaged_checkpoint_is_said_to_be_one(session):
    made = session()
    made.folder.mkdir()
    made.checkpoint.path.write_bytes(b"no checkpoint")
    with pytest.raises(StorageError, match="cannot be read.*remove it to start anew"):
        list(made.run())


def test_checkpoints_are_written_as_often_as_asked(session, monkeypatch):
    written = []

    def counted(path, value):
        written.append(value["fit"]["step"] if "fit" in value else path.name)
        save_tensors(path, value)

    monkeypatch.setattr("tasks.splatting.fit.session.save_tensors", counted)
    monkeypatch.setattr("tasks.run.checkpoint.save_tensors", counted)
    list(session("often", checkpoint_every_s=0.0).run())
    assert written == [25, 30, 50, 60, 75, GAUSSIANS]
    written.clear()
    list(session("never").run())
    assert written == [GAUSSIANS]


def test_threads_of_torch_are_given_back(session):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = [torch.get_num_threads() for event in session().run() if isinstance(event, StepsDone)]
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_a_kill_left_is_removed_and_nothing_else(session):
    made = session()
    made.folder.mkdir()
    left = [".splat.ckpt.ab12", ".gaussians.pt.x", ".metrics.csv._1", ".finished.json.q"]
    kept = [".hidden.of.somebody", "notes.txt"]
    for name in left + kept:
        (made.folder / name).write_text("x")
    next(made.run())
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(kept)
