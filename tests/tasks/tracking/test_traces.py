"""Traces arrive in MLflow, each once, through its server and through its outages."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.tracking import mlflow_api
from tasks.tracking.journal import Journal, read_card
from tasks.tracking.traces import Trace, trace_id
from tasks.tracking.tracker import Tracker
from tasks.tracking.uploader import upload

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("at_home")


def talk(key, **more):
    url = {"url": "data:image/jpeg;base64,/9j/4AAQ"}
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "Is it a cat?"}]
    inputs = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    outputs = {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]}
    began = 1_700_000_000_000_000_000
    figures = {"question": "Is it a cat?", "answer": "yes", "n_prompt": 80, "n_new": 2, "model": "tiny"}
    return Trace(key, f"{key}.jpg", began, began + 10**9, inputs, outputs, **{**figures, **more})


def traces(card):
    return mlflow_api.client().search_traces([card.experiment_id], filter_string=f"attributes.run_id = '{card.run_id}'")


@contextmanager
def server(folder, port):
    """MLflow's server as the yard runs it."""
    command = [sys.executable, "-m", "deployments.services.mlflow_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--default-artifact-root", (folder / "a").as_uri()]
    environ = {**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'db'}"}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_trace_has_question_answer_tokens_and_grade(tmp_path):
    with Tracker.open(tmp_path / "run", "traced", "r", {}) as tracker:
        tracker.trace(talk("a", right_answer="no", correct=False, tags={"images": "/data/a.jpg"}))
    card = read_card(tmp_path / "run")
    (found,) = traces(card)
    assert found.info.trace_id == trace_id(card, "a")
    assert (found.info.request_preview, found.info.response_preview) == ("Is it a cat?", "yes")
    assert found.info.execution_duration == 1000
    assert found.info.token_usage == {"input_tokens": 80, "output_tokens": 2, "total_tokens": 82}
    assert (found.info.tags["model"], found.info.tags["images"]) == ("tiny", "/data/a.jpg")
    assert found.info.trace_metadata["mlflow.sourceRun"] == card.run_id
    (span,) = found.data.spans
    assert span.span_type == "CHAT_MODEL"
    assert span.inputs == talk("a").inputs
    assert span.outputs == talk("a").outputs
    assert {each.name: each.value for each in found.info.assessments} == {"correct": False, "right_answer": "no"}


def test_a_trace_that_is_sent_twice_is_there_once(tmp_path):
    with Tracker.open(tmp_path / "run", "twice", "r", {}) as tracker:
        tracker.trace(talk("a", correct=True))
        tracker.trace(talk("b", error="does not fit"))
        tracker.trace(talk("a", correct=True))
    card = read_card(tmp_path / "run")
    found = {each.info.request_id: each for each in traces(card)}
    assert set(found) == {trace_id(card, "a"), trace_id(card, "b")}
    assert len(found[trace_id(card, "a")].info.assessments) == 1
    assert found[trace_id(card, "b")].info.state == "ERROR"


def test_traces_wait_for_a_server_that_is_away(tmp_path, monkeypatch):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with server(tmp_path, port):
        tracker = Tracker.open(tmp_path / "run", "traced", "r", {})
        tracker.trace(talk("before"))
        tracker.flush()
    began = time.monotonic()
    for number in range(50):
        tracker.trace(talk(f"away{number}"))
    assert time.monotonic() - began < 2, "an outage of MLflow costs the questions nothing"
    tracker._pause({"patience_s": 0.1, "longest_s": 0.1})
    with server(tmp_path, port):
        upload(tmp_path / "run")
        card = read_card(tmp_path / "run")
        found = MlflowClient(uri).search_traces([card.experiment_id], max_results=100)
        assert {each.info.request_id for each in found} == {
            trace_id(card, key) for key in ("before", *(f"away{number}" for number in range(50)))
        }
        assert found[0].data.spans[0].inputs == talk("a").inputs
    assert not any((tmp_path / "run" / "outbox").glob("*"))


def test_a_trace_that_mlflow_never_takes_holds_up_nothing(tmp_path, caplog):
    with Tracker.open(tmp_path / "run", "traced", "r", {}) as tracker:
        tracker.trace(talk("x" * 9000))
        tracker.metrics({"after": 1}, 0)
        tracker.flush()
    assert "which is left out" in caplog.text
    assert mlflow_api.client().get_run(tracker.run_id).data.metrics == {"after": 1}
    assert Journal(tmp_path / "run").all_sent
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]
