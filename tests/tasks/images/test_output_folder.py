"""What a person has is never written over, and what a run makes appears whole."""

import pytest

from tasks.base.errors import ConfigError
from tasks.base.workspace import write_step_info
from tasks.images.output_folder import check_output, filling


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


def test_a_missing_and_an_empty_folder_are_taken(tmp_path, data):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        target = check_output(tmp_path / name, data, "run")
        with filling(target, "run") as folder:
            (folder / "a").write_text("a")
        assert [path.name for path in target.iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "missing"]


def test_a_folder_that_holds_something_is_refused(tmp_path, data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(ConfigError, match=r"found something in .*out, need a folder that is missing or empty"):
        check_output(tmp_path / "out", data, "run")


def test_a_file_is_refused(tmp_path, data):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="found a file"):
        check_output(tmp_path / "out", data, "run")


@pytest.mark.parametrize("output", ["data", "data/inside", "."])
def test_output_and_data_inside_each_other_are_refused(tmp_path, data, output):
    with pytest.raises(ConfigError, match="inside each other"):
        check_output(tmp_path / output, data, "run")


def test_the_run_that_filled_it_may_have_it_again(tmp_path, data):
    (tmp_path / "out").mkdir()
    write_step_info(tmp_path / "out", {"run": "mine"})
    assert check_output(tmp_path / "out", data, "mine") == tmp_path / "out"
    with pytest.raises(ConfigError, match="found something"):
        check_output(tmp_path / "out", data, "other")


def test_a_folder_outside_the_allowed_roots_is_refused(tmp_path, data, monkeypatch):
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(data))
    with pytest.raises(ConfigError, match="outside the allowed roots"):
        check_output(tmp_path / "out", data, "run")


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), filling(tmp_path / "out", "run") as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_came_into_the_folder_meanwhile_stays(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"came into .*out meanwhile; what was made lies in .*\.out-run"),
        filling(tmp_path / "out", "run") as folder,
    ):
        (folder / "a").write_text("a")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").write_text("mine")
    assert (tmp_path / "out/mine").read_text() == "mine"
    assert (tmp_path / ".out-run/a").read_text() == "a"
