"""What there is to say of a run, from what Prefect's server has of it."""

import pytest

from deployments.notices.run_notices import headline, how_it_ended, mlflow_links, owner_of, reason, started_late

RUN = {
    "id": "0b7d7c8e-6a0e-4f0f-8f55-0c4a4b8f1f10",
    "name": "rfuav",
    "state_type": "COMPLETED",
    "state_name": "Completed",
    "state": {"message": None},
    "work_queue_name": "cuda.training",
    "parent_task_run_id": None,
    "job_variables": {"owner": "anna@boxa"},
    "parameters": {},
    "labels": {"trainyard.device": "cuda:1", "trainyard.host": "boxa"},
    "auto_scheduled": False,
    "run_count": 1,
    "expected_start_time": "2026-11-29T10:00:00Z",
    "start_time": "2026-11-29T10:42:10Z",
    "end_time": "2026-11-29T12:56:40Z",
}
WRAPPED = "Flow run encountered an exception: "


def run(**fields):
    message = fields.pop("message", None)
    return {**RUN, **fields, **({"state": {"message": message}} if message is not None else {})}


def failed(message, **fields):
    return run(state_type="FAILED", state_name="Failed", message=message, **fields)


def test_a_finished_run_tells_how_long_it_waited_and_ran():
    notice = how_it_ended(run(run_count=3))
    assert (notice.kind, notice.owner, notice.device) == ("finished", "anna@boxa", "boxa/cuda:1")
    assert notice.text == "rfuav of anna@boxa has finished."
    assert notice.figures == {"waited": "42 min", "ran": "2 h 14 min", "attempts": "3"}
    in_a_terminal = how_it_ended(run(run_count=3, work_queue_name=""))
    assert "attempts" not in in_a_terminal.figures


@pytest.mark.parametrize(
    "silent",
    [
        run(state_type="CANCELLED", state_name="Cancelled", message="cancelled"),
        run(
            state_type="CANCELLED", state_name="Skipped", message="skipped: run b of the same schedule was due after it"
        ),
        run(state_type="RUNNING"),
        run(state_type="SCHEDULED", message="starts again, from its checkpoint if it has one, attempt 2 of 4"),
        run(state_type="CANCELLED", message="train_classifier (rfuav) is Cancelled: cancelled by anna@boxa"),
        run(parent_task_run_id="a task"),
        failed("broken", parent_task_run_id="a task"),
        run(work_queue_name="cpu.housekeeping"),
        run(work_queue_name=None, end_time="2026-11-29T10:51:00Z"),
    ],
    ids=[
        "cancelled",
        "skipped",
        "runs",
        "goes on",
        "cancelled stage",
        "stage",
        "failed stage",
        "housekeeping",
        "short in a terminal",
    ],
)
def test_of_these_nothing_is_said(silent):
    assert how_it_ended(silent) is None


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (failed("broken", work_queue_name="cpu.housekeeping"), "failed"),
        (run(work_queue_name=None), "finished"),
        (run(state_type="CRASHED", message="given up after 4 attempts"), "failed"),
        (run(state_type="CANCELLED", message="refused: cuda:0 is training x"), "refused"),
        (failed("found device 'cuda:9', need ...", start_time=None), "refused"),
        (
            run(state_type="CANCELLED", message="train_classifier (rfuav) is Cancelled: refused: cuda:0 is busy"),
            "refused",
        ),
    ],
)
def test_of_these_something_is(told, kind):
    assert how_it_ended(told).kind == kind


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (f"{WRAPPED}ValueError: found nothing", "found nothing"),
        (f"{WRAPPED}torch.OutOfMemoryError: CUDA out of memory.\nTried ...", "CUDA out of memory. Tried ..."),
        (
            f"{WRAPPED}TrainyardError: train_classifier (rfuav) is Failed: {WRAPPED}DatasetError: class 'fpv' is bare",
            "train_classifier (rfuav) is Failed: class 'fpv' is bare",
        ),
        ("refused: cuda:0 is training x of ben", "cuda:0 is training x of ben"),
        ("cannot reach http://ben:s3cret@store/data", "cannot reach http://***@store/data"),
        ("", "it is Failed and says no more"),
    ],
)
def test_the_reason_is_a_sentence(message, sentence):
    assert reason(failed(message)) == sentence


def test_a_long_reason_is_cut():
    assert len(reason(failed("x" * 5000))) == 300


def test_the_same_end_is_the_same_notice_and_another_attempt_of_a_person_another():
    first, again, retried = how_it_ended(run()), how_it_ended(run()), how_it_ended(run(run_count=2))
    assert first.id == again.id != retried.id


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, True),
        ({"expected_start_time": "2026-11-29T10:40:00Z"}, False),
        ({"work_queue_name": "cpu.pipeline"}, False),
        ({"state_type": "COMPLETED"}, False),
        ({"parent_task_run_id": "a task"}, True),
    ],
    ids=["long", "short", "pipeline", "over", "stage"],
)
def test_a_start_is_told_after_a_long_wait(fields, told):
    assert (started_late(run(**{"state_type": "RUNNING", **fields}), 600.0) is not None) is told


def test_a_start_says_where_and_after_what():
    notice = started_late(run(state_type="RUNNING"), 600.0)
    assert notice.text == "rfuav of anna@boxa has started on boxa/cuda:1, after it had waited for 42 min."


def test_the_owner_is_who_says_so():
    assert owner_of(run(job_variables=None, parameters={"track": {"owner": "ben"}})) == "ben"
    assert owner_of(run(job_variables={}, labels={"trainyard.owner": "eve@boxc"})) == "eve@boxc"
    assert owner_of(run(job_variables={}, auto_scheduled=True)) == "made by a schedule"
    assert owner_of(run(job_variables={})) == ""


def test_the_result_is_the_heading_of_the_summary():
    assert headline([{"key": "other", "data": "# no"}, {"key": "summary", "data": "# resnet18: 93.1% right\n\n|"}]) == (
        "resnet18: 93.1% right"
    )
    assert headline([]) == ""


def test_links_to_mlflow_are_found():
    pages = [
        {"key": "mlflow-run", "data": "[Curves](http://127.0.0.1:5000/#/experiments/1/runs/new)"},
        {"key": "mlflow-run", "data": "[Curves](http://127.0.0.1:5000/#/experiments/1/runs/old)"},
        {"key": "mlflow-run-index", "data": "[Curves](http://127.0.0.1:5000/#/experiments/2/runs/b)"},
        {"key": "mlflow-run-x", "data": "[Curves](file:///tmp)"},
    ]
    assert mlflow_links(pages) == {
        "MLflow": "http://127.0.0.1:5000/#/experiments/1/runs/new",
        "MLflow index": "http://127.0.0.1:5000/#/experiments/2/runs/b",
    }
