"""Registered models: one version per run, one champion, decisions that can be read later."""

import socket
from pathlib import Path

import pytest

from tasks.base.errors import TrackingError
from tasks.tracking import mlflow_api
from tasks.tracking.registry import annotate, champion, fetch, promote, register, why_lost


@pytest.fixture
def logged(client, experiment):
    """A function that makes a run with a logged model: (run id, address)."""

    def make():
        run_id = client.create_run(experiment).info.run_id
        model = client.create_logged_model(experiment, source_run_id=run_id)
        client.finalize_logged_model(model.model_id, "READY")
        return run_id, f"models:/{model.model_id}"

    return make


def test_a_model_is_registered_once_per_run(client, logged):
    first, second = logged(), logged()
    assert register("once", *first, tags={"accuracy": "0.9"}) == 1
    assert register("once", *first, tags={"network": "b"}) == 1
    assert register("once", *second) == 2
    assert len(client.search_model_versions("name = 'once'")) == 2
    version = client.get_model_version("once", "1")
    assert (version.tags, version.run_id) == ({"accuracy": "0.9", "network": "b"}, first[0])


def test_without_a_model_or_an_alias_there_is_no_champion(logged):
    assert champion("nobody") is None
    register("somebody", *logged())
    assert champion("somebody") is None


def test_the_champion_is_who_was_promoted_last(logged):
    for number in (1, 2):
        register("race", *logged())
        assert promote("race", number, instead_of=number - 1 or None)
        found = champion("race")
        assert found is not None
        assert int(found.version) == number


def test_a_promotion_against_an_older_champion_changes_nothing(logged):
    for _ in range(3):
        register("late", *logged())
    assert promote("late", 1, instead_of=None)
    assert promote("late", 2, instead_of=1)
    assert not promote("late", 3, instead_of=1)
    assert promote("late", 2, instead_of=1)
    found = champion("late")
    assert found is not None
    assert int(found.version) == 2


def test_a_decision_is_written_on_the_version(client, logged):
    register("told", *logged())
    annotate("told", 1, tags={"decision": "kept"}, description="0.91 against 0.92 on 100 files")
    version = client.get_model_version("told", "1")
    assert version.tags == {"decision": "kept"}
    assert version.description == "0.91 against 0.92 on 100 files"


def test_a_name_that_would_break_the_search_is_refused(logged):
    with pytest.raises(ValueError, match="quote"):
        register("ann's", *logged())


@pytest.mark.parametrize(
    "call",
    [
        lambda to: register("away", "r", "models:/m-1", uri=to),
        lambda to: annotate("away", 1, description="x", uri=to),
        lambda to: champion("away", uri=to),
        lambda to: promote("away", 1, instead_of=None, uri=to),
        lambda to: why_lost("r", ["weights/best.pt"], uri=to),
        lambda to: fetch("r", ["weights/best.pt"], Path("."), uri=to),
    ],
    ids=["register", "annotate", "champion", "promote", "why_lost", "fetch"],
)
def test_without_mlflow_every_call_is_a_tracking_error_that_names_its_cause(call, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://ann:pw@127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(TrackingError, match=r"^cannot .* in MLflow at http://127\.0\.0\.1:\d+: ") as caught:
        call(nobody)
    assert isinstance(caught.value.__cause__, mlflow_api.TRANSIENT)
    assert "pw@" not in str(caught.value)


def test_what_mlflow_refuses_is_a_tracking_error(logged):
    run_id, address = logged()
    with pytest.raises(TrackingError, match="cannot register the model of run .* as 'a/b'"):
        register("a/b", run_id, address)
    with pytest.raises(TrackingError, match="cannot write on version 7 of 'nobody'"):
        annotate("nobody", 7, description="x")
