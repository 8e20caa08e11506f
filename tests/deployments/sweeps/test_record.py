import pytest

from deployments.sweeps.record import call_cancelled, is_cancelled, is_new, read_sweep, sweep_folder, write_sweep
from tasks.base.errors import ConfigError
from tests.deployments.sweeps.fake_yard import sweep_of


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    return tmp_path


def test_a_sweep_is_read_as_it_was_written_and_its_name_is_taken():
    is_new("toy")
    write_sweep(sweep_of(4, 2))
    assert read_sweep("toy") == sweep_of(4, 2)
    with pytest.raises(ConfigError, match="`yard sweep --resume toy` goes on, or take another --name"):
        is_new("toy")


def test_who_asks_for_an_unknown_sweep_is_told_those_that_there_are():
    write_sweep(sweep_of(4, 2))
    with pytest.raises(ConfigError, match="found no sweep 'tou' .*, have: toy"):
        read_sweep("tou")


@pytest.mark.parametrize("name", ["", "..", "../runs", "a/b", ".hidden", "x" * 101])
def test_a_name_leads_nowhere_else(name):
    with pytest.raises(ConfigError, match="found the name"):
        sweep_folder(name)


def test_a_record_of_something_else_is_refused(home):
    write_sweep(sweep_of(4, 2))
    (home / "sweeps" / "toy" / "sweep.json").write_text('{"objective": {}}')
    with pytest.raises(ConfigError, match="need the record of a sweep"):
        read_sweep("toy")


def test_a_sweep_that_was_cancelled_stays_so():
    write_sweep(sweep_of(4, 2))
    assert not is_cancelled(sweep_of(4, 2))
    call_cancelled(sweep_of(4, 2))
    assert is_cancelled(sweep_of(4, 2))
