import pytest

from deployments.sweeps.space import Choices, Range
from deployments.sweeps.study import JOURNAL, Study
from tests.deployments.sweeps.fake_yard import OBJECTIVE, SPACE


def study(folder, prune_after: int = 2) -> Study:
    return Study(folder, SPACE, OBJECTIVE, seed=3, prune_after=prune_after)


def test_a_trial_is_ended_at_the_first_measurement_at_which_it_is_behind(tmp_path):
    asked = study(tmp_path)
    for number, first in enumerate((0.5, 0.6, 0.4)):
        asked.ask()
        assert asked.report(number, [9.0]) is False  # too early to compare
        assert asked.report(number, [9.0, first]) is (first > 0.5)
    assert asked.trial(1).measured == (9.0, 0.6)


def test_measurements_that_come_all_at_once_are_judged_as_if_one_by_one(tmp_path):
    asked = study(tmp_path)
    for _ in range(2):
        asked.ask()
    assert asked.report(0, [1.0, 1.0, 1.0]) is False
    assert asked.report(1, [1.0, 2.0, 0.0]) is True  # the third came too late
    assert asked.trial(1).measured == (1.0, 2.0)


def test_no_trial_is_ended_early_where_nobody_wants_it(tmp_path):
    asked = study(tmp_path, prune_after=0)
    for number in range(5):
        asked.ask()
        assert asked.report(number, [float(number)] * 20) is False


def test_a_study_that_is_read_again_goes_on_with_other_values_and_the_same_ones_as_without_a_break(tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole").mkdir()
    whole = study(tmp_path / "whole")
    cut = [study(tmp_path / "cut").ask().values for _ in range(4)]
    assert cut == [whole.ask().values for _ in range(4)]
    assert len({str(values) for values in cut}) == 4


def test_a_half_written_line_and_a_trial_without_values_are_left_out(tmp_path):
    first = study(tmp_path)
    first.complete(first.ask().number, 0.5)
    first.optuna.ask()  # killed before its values were chosen
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    again = study(tmp_path)
    assert [trial.number for trial in again.trials()] == [0]
    assert again.ask().number == 2
    assert [trial.state for trial in study(tmp_path).trials()] == ["complete", "running"]


def test_a_value_that_is_no_number_fails_its_trial(tmp_path):
    asked = study(tmp_path)
    asked.ask()
    asked.report(0, [float("nan"), 0.5])
    assert OBJECTIVE.value([float("nan"), 0.5]) == 0.5
    assert OBJECTIVE.value([float("nan")]) is None


def test_values_have_the_types_of_the_space(tmp_path):
    space = {
        "a": Range(2, 8, False, 2, True),
        "b": Choices((True, None, "x", 3)),
        "c": Range(1e-5, 1, True, None, False),
    }
    asked = Study(tmp_path, space, OBJECTIVE, seed=0, prune_after=0)
    for _ in range(8):
        values = asked.ask().values
        assert values["a"] in {2, 4, 6, 8}
        assert isinstance(values["a"], int)
        assert values["b"] in (True, None, "x", 3)
        assert 1e-5 <= values["c"] <= 1  # type: ignore[operator]


def test_the_first_of_equally_good_trials_is_the_best(tmp_path):
    asked = study(tmp_path)
    for value in (0.7, 0.2, 0.2):
        asked.complete(asked.ask().number, value)
    best = asked.best()
    assert best is not None
    assert (best.number, best.value) == (1, pytest.approx(0.2))
