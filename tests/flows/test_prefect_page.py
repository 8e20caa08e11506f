"""What Prefect's page of a run shows is of its present attempt, each thing once."""

import json
import time

from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.flow_engine import run_flow
from prefect.states import Pending, Running

from tasks.run import prefect_page
from tasks.run.prefect_page import Page, show_link, show_markdown, show_table


@flow
def attempt(n_epochs: int) -> None:
    show_link("mlflow-run", "http://127.0.0.1:5000/#/x", "Curves in MLflow")
    with Page("training", "Training", columns=("epoch",)) as page:
        for epoch in range(1, n_epochs + 1):
            page.row({"epoch": epoch, "loss": 1 / epoch})
            page.progress(epoch / 4)
    show_markdown("summary", "# result", "The result")
    show_markdown("summary", "# result", "The result")  # twice in one attempt is meant
    show_table("classes", [{"class": "a"}], "Images by class")


@task
def step() -> None:
    show_link("mlflow-run", "http://127.0.0.1:5000/#/x", "Curves in MLflow")


@flow
def steps() -> None:
    step()


def test_steps_of_a_killed_attempt_do_not_look_as_if_they_ran(prefect_api, monkeypatch):
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(steps, state=Pending())
        for _ in range(2):
            monkeypatch.setattr(prefect_page, "_made", set())
            client.set_flow_run_state(run.id, Pending(), force=True)
            run_flow(steps, flow_run=client.read_flow_run(run.id))
            first = first_step(client, run.id)
            client.set_task_run_state(first.id, Running(), force=True)  # as a kill leaves it
        monkeypatch.setattr(prefect_page, "_made", set())
        client.set_flow_run_state(run.id, Pending(), force=True)
        run_flow(steps, flow_run=client.read_flow_run(run.id))
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        deadline = time.monotonic() + 30  # the server takes in what became of steps from a queue
        names: list[str] = []
        while time.monotonic() < deadline and "Running" in (names or ["Running"]):
            time.sleep(0.5)
            names = [found.state_name for found in client.read_task_runs(flow_run_filter=wanted)]
    assert "Running" not in names
    assert "Crashed" in names


def first_step(client, run_id):
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    deadline = time.monotonic() + 30
    while not (found := client.read_task_runs(flow_run_filter=wanted)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found, "the server knows of no step after 30 s"
    return min(found, key=lambda step: step.flow_run_run_count)


def test_three_attempts_leave_one_bar_one_table_and_one_link(prefect_api, monkeypatch):
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(attempt, parameters={"n_epochs": 1}, state=Pending())
        for n_epochs in (1, 2, 3):
            monkeypatch.setattr(prefect_page, "_made", set())  # each attempt is a process of its own
            client.set_flow_run_state(run.id, Pending(), force=True)
            run_flow(attempt, flow_run=client.read_flow_run(run.id), parameters={"n_epochs": n_epochs})
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        found = client.read_artifacts(artifact_filter=wanted)
    keys = ["classes", "mlflow-run", "summary", "summary", "training-epochs", "training-last", "training-progress"]
    assert sorted(page.key for page in found) == keys
    shown = {page.key: page for page in found}
    assert shown["training-progress"].data == 75.0
    assert json.loads(shown["training-epochs"].data) == [{"epoch": n} for n in (1, 2, 3)]
    assert json.loads(shown["training-last"].data)[0] == {"figure": "epoch", "value": 3}
    assert all(page.description for page in found)
