"""What a run could not do while MLflow was away is written down, until it is done."""

import logging
from pathlib import Path

import pytest

from tasks.base.errors import StorageError
from tasks.base.workspace import run_dir
from tasks.classification.params import EvaluateParams
from tasks.run.postponed import find_postponed, settle_postponed

LOG = logging.getLogger("tests")


def test_what_is_postponed_is_found_until_it_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    parameters = {"dataset": Path("/d"), "run": "r1", "evaluate": EvaluateParams(), "save_path": None}
    text = settle_postponed("r1", "MLflow at http://x does not answer", "report_classifier", parameters, LOG)
    assert "http://x does not answer" in text
    assert "`yard sync r1`" in text
    (found,) = find_postponed()
    assert (found.run, found.flow) == ("r1", "report_classifier")
    assert found.parameters["dataset"] == "/d"
    assert EvaluateParams.model_validate(found.parameters["evaluate"]) == EvaluateParams()
    assert find_postponed("r2") == []
    assert (found.attempts, found.due - found.since) == (1, 30)
    for _ in range(9):
        settle_postponed("r1", "away", "report_classifier", parameters, LOG)
    (found,) = find_postponed("r1")
    assert (found.attempts, found.due - found.since) == (10, 3600)
    assert settle_postponed("r1", "", "report_classifier", parameters, LOG) == ""
    assert find_postponed() == []


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    (run_dir("r1") / "postponed.json").write_text("{}")
    with pytest.raises(StorageError, match=r"cannot read .*postponed\.json: need what a run has postponed"):
        find_postponed()
