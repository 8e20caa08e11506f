import csv

from deployments.runs.submit import gather_parameters
from deployments.sweeps.pictures import draw_all, importances, parallel_coordinates
from deployments.sweeps.record import read_sweep, write_sweep
from deployments.sweeps.results import write_results
from tests.deployments.sweeps.fake_yard import OBJECTIVE, SPACE, FakeYard, sweep_all, sweep_of


def test_a_sweep_leaves_a_table_pictures_and_a_file_that_submit_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    sweep = sweep_of(8, 2, prune_after=0)
    write_sweep(sweep)
    assert read_sweep("toy") == sweep
    study, _ = sweep_all(sweep.folder, sweep, FakeYard(lambda x, step: (x - 0.3) ** 2 + 1 / step))
    best = study.best()
    assert best is not None
    table, yaml = write_results(sweep, study.trials(), best)
    rows = list(csv.DictReader(table.open()))
    assert [row["state"] for row in rows] == ["complete"] * 8
    assert float(min(rows, key=lambda row: float(row["loss/val"]))["train.x"]) == best.values["train.x"]
    assert gather_parameters(yaml, []) == {"data": "/data", "train": {"x": best.values["train.x"]}}
    assert importances(study) == {"train.x": 1.0}
    for path in draw_all(sweep.folder, study, SPACE, OBJECTIVE):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_where_too_many_trials_are_alike_nothing_is_said_on_what_mattered(tmp_path, recwarn):
    sweep = sweep_of(6, 1, prune_after=0)
    study, _ = sweep_all(tmp_path, sweep, FakeYard(lambda x, step: 1.0))
    assert importances(study) == {}
    assert [path.name for path in draw_all(tmp_path, study, SPACE, OBJECTIVE)] == ["parallel_coordinates.png"]
    assert not [found for found in recwarn if found.category is UserWarning]


def test_without_a_complete_trial_there_is_a_table_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    sweep = sweep_of(1, 1)
    write_sweep(sweep)
    assert [path.name for path in write_results(sweep, [], None)] == ["trials.csv"]


def test_of_equal_trials_the_first_is_drawn_as_the_best_one(tmp_path):
    sweep = sweep_of(3, 1, prune_after=0)
    study, _ = sweep_all(tmp_path, sweep, FakeYard(lambda x, step: 1.0))
    (axes,) = parallel_coordinates(study.trials(), SPACE, OBJECTIVE).axes
    lines = [line.get_ydata()[0] for line in axes.get_lines() if len(line.get_ydata()) == 2 and line.get_alpha()]
    assert lines[-1] == study.trials()[0].values["train.x"]
    assert [text.get_text() for text in axes.texts].count("1") == 2  # an end of the parameter, and the only value
