import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.stack.stack import ServiceError
from deployments.sweeps import sweeping
from deployments.sweeps.edge import Figures, UnfitValuesError
from tests.deployments.sweeps.fake_yard import FakeYard, KilledError, study_of, sweep_all, sweep_of

ROOT = Path(__file__).parents[3]


def ends(study) -> dict[int, tuple[str, float | None]]:
    return {trial.number: (trial.state, trial.value) for trial in study.trials()}


def test_a_sweep_has_as_many_trials_as_asked_for_and_no_more_at_once(tmp_path):
    yard = FakeYard()
    study, _ = sweep_all(tmp_path, sweep_of(8, 3, prune_after=0), yard)
    assert len(yard.runs) == len(study.trials()) == 8
    assert yard.most_at_once == 3
    assert {trial.state for trial in study.trials()} == {"complete"}
    best = study.best()
    assert best is not None
    assert best.value == pytest.approx(min(run.values["train.x"] for run in yard.runs.values()) + 1 / 6)


def test_trials_that_are_behind_are_ended_early_and_keep_what_they_measured(tmp_path):
    yard = FakeYard()
    study, said = sweep_all(tmp_path, sweep_of(8, 1), yard)
    pruned = [trial for trial in study.trials() if trial.state == "pruned"]
    complete = [trial for trial in study.trials() if trial.state == "complete"]
    assert pruned
    assert complete
    assert all(len(trial.measured) >= 2 for trial in pruned)
    assert all(yard.runs[trial.number].state == "CANCELLED" for trial in pruned)
    assert all(f"measurement {len(trial.measured)}, behind the others" in trial.note for trial in pruned)
    assert sum("ended early" in line for line in said) == len(pruned)


def killed_at(folder: Path, moment: int) -> FakeYard:
    """Sweep in a process that dies at a moment, then in one that goes on; check what must hold; return the yard."""
    folder.mkdir()
    sweep, yard = sweep_of(4, 2), FakeYard(die_at=moment)
    with pytest.raises(KilledError):
        sweep_all(folder, sweep, yard)
    yard.die_at = 0
    study, _ = sweep_all(folder, sweep, yard)
    assert len(study.trials()) == len(yard.runs) == 4
    assert not study.living()
    for trial in study.trials():
        assert trial.run == yard.runs[trial.number].id
        assert yard.runs[trial.number].state == ("COMPLETED" if trial.state == "complete" else "CANCELLED")
    return yard


def test_whenever_the_process_dies_each_trial_has_one_run_and_comes_to_its_end(tmp_path):
    whole = FakeYard()
    sweep_all(tmp_path, sweep_of(4, 2), whole)
    assert whole.moments > 20
    for moment in range(1, whole.moments + 1):
        killed_at(tmp_path / str(moment), moment)


CHILD = """
import os, signal, sys
from pathlib import Path
from tests.deployments.sweeps.fake_yard import FakeYard, sweep_all, sweep_of

class Deadly(FakeYard):
    def start(self, number, values):
        run = super().start(number, values)
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return run

sweep_all(Path(sys.argv[1]), sweep_of(4, 2), Deadly())
"""


def test_a_killed_process_leaves_a_study_that_another_one_reads(tmp_path):
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    found = study_of(tmp_path, sweep_of(4, 2))
    values = dict(found.trial(2).values)
    assert found.trial(2).run == ""  # it was not noted any more
    yard = FakeYard()
    for trial in found.living():
        yard.start(trial.number, trial.values)
    study, _ = sweep_all(tmp_path, sweep_of(4, 2), yard)
    assert len(study.trials()) == 4
    assert study.trial(2).run == "run-2"
    assert dict(study.trial(2).values) == values


def test_a_trial_whose_run_fails_or_is_cancelled_by_somebody_has_no_value(tmp_path):
    yard = FakeYard()
    study = study_of(tmp_path, sweep_of(3, 3))
    sweeper = sweeping.Sweeper(sweep_of(3, 3), study, yard, lambda line: None)
    sweeper.turn()
    yard.runs[0].state = "FAILED"
    yard.runs[1].state = "CANCELLED"
    del yard.runs[2].values
    gone = yard.states
    yard.states = lambda runs: {run: state for run, state in gone(runs).items() if run != "run-2"}  # type: ignore[method-assign]
    yard.figures = lambda number, run: Figures((0.5,), True)  # type: ignore[method-assign]
    assert not sweeper.turn()
    notes = [trial.note for trial in study.trials()]
    assert notes == ["its run is failed", "its run is cancelled", "its run was deleted"]
    assert {trial.state for trial in study.trials()} == {"failed"}


def test_metrics_that_come_late_are_waited_for_and_then_given_up(tmp_path, monkeypatch):
    yard = FakeYard(n_steps=1)
    study = study_of(tmp_path, sweep_of(1, 1))
    sweeper = sweeping.Sweeper(sweep_of(1, 1), study, yard, lambda line: None)
    sweeper.turn()
    yard.runs[0].state = "COMPLETED"
    yard.figures = lambda number, run: Figures((), False)  # type: ignore[method-assign]
    assert sweeper.turn()
    monkeypatch.setattr(sweeping, "_LATE_S", 0.0)
    assert not sweeper.turn()
    assert study.trial(0).note == "its run has no loss/val in MLflow"


def test_while_mlflow_is_away_nothing_is_decided_and_it_is_said_once(tmp_path):
    yard = FakeYard()
    said: list[str] = []
    study = study_of(tmp_path, sweep_of(1, 1))
    sweeper = sweeping.Sweeper(sweep_of(1, 1), study, yard, said.append)
    sweeper.turn()
    yard.runs[0].state = "COMPLETED"
    yard.figures = lambda number, run: None  # type: ignore[method-assign]
    assert sweeper.turn()
    assert sweeper.turn()
    assert [line for line in said if "MLflow" in line] == [
        "MLflow does not answer; the sweep waits for it, its runs go on"
    ]


def test_a_yard_that_does_not_answer_for_a_while_is_waited_for_and_it_is_said_once(tmp_path):
    class Restarted(FakeYard):
        away = True

        def states(self, runs):
            if self.away:
                raise ServiceError("no answer from http://127.0.0.1:4200/api: is the server up?")
            return super().states(runs)

    yard, sweep, said = Restarted(), sweep_of(2, 1, prune_after=0), []
    with pytest.raises(ServiceError):
        sweeping.Sweeper(sweep, study_of(tmp_path, sweep), yard, said.append).turn()
    yard.away = False
    study = study_of(tmp_path, sweep)
    sweeper = sweeping.Sweeper(sweep, study, yard, said.append)
    assert sweeper.turn()
    yard.away = True
    assert sweeper.turn()
    assert sweeper.turn()
    yard.away = False
    while sweeper.turn():
        pass
    assert [line for line in said if "server" in line] == [
        "the sweep waits, its runs go on: no answer from http://127.0.0.1:4200/api: is the server up?"
    ]
    assert [state for state, _ in ends(study).values()] == ["complete", "complete"]


def test_values_that_the_flow_does_not_take_together_cost_their_trial_only(tmp_path):
    class Picky(FakeYard):
        def start(self, number, values):
            if number == 1:
                raise UnfitValuesError("train: these do not go together")
            return super().start(number, values)

    study, _ = sweep_all(tmp_path, sweep_of(3, 1), Picky())
    assert ends(study)[1] == ("failed", None)
    assert study.trial(1).note == "train: these do not go together"
    assert len(study.trials()) == 3
