"""Every line of the page on the services does what it says, and no key of a document is left out of it."""

import json
import os
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from deployments.cli.terminal.details import read_details
from deployments.runs.find import RunRow

PAGE = (Path(__file__).parents[2] / "docs" / "services.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
LINES = dict(re.findall(r"^# (.*)\n(curl .*)$", "\n".join(BLOCKS), re.M))


def in_state(yard, *kinds):
    run = yard.create("train_classifier", parameters={"dataset": "/d"})
    for kind in kinds:
        yard.state(run["id"], kind)
    return run["id"]


@pytest.fixture
def variables(yard, tracking, champion):
    call = yard.api.call
    block_type = call("GET", "/block_types/slug/webhook")["id"]
    wanted = {"block_schemas": {"block_type_id": {"any_": [block_type]}}}
    schema = call("POST", "/block_schemas/filter", wanted)[0]["id"]
    block = {"block_type_id": block_type, "block_schema_id": schema, "name": f"hook-{uuid4()}"}
    hook = call("POST", "/block_documents/", {**block, "data": {"url": "http://h"}})
    return {
        "API": yard.api.url,
        "MLFLOW": tracking,
        "MLRUN": champion,
        "PIPELINE": yard.deployment("classification"),
        "TRAINING": yard.deployment("train_classifier"),
        "PREDICT": yard.deployment("predict"),
        "MANY": yard.deployment("predict_many"),
        "SNR": yard.deployment("snr_benchmark"),
        "CROP": yard.deployment("crop_images"),
        "SPECTROGRAMS": yard.deployment("spectrograms"),
        "SPLAT": yard.deployment("splatting"),
        "SCENE": yard.deployment("prepare_scene"),
        "PARTS": yard.deployment("recognition"),
        "RUN": in_state(yard, "RUNNING", "COMPLETED"),
        "WAITING": in_state(yard, "SCHEDULED"),
        "LIVING": in_state(yard, "RUNNING"),
        "OVER": in_state(yard, "COMPLETED"),
        "FAILED": in_state(yard, "RUNNING", "FAILED"),
        "BLOCK_TYPE": block_type,
        "BLOCK_SCHEMA": schema,
        "WEBHOOK": hook["id"],
    }


def answered(label, variables):
    """Return status code and answer of a line."""
    with tempfile.NamedTemporaryFile() as answer:
        # SQLite: 503 while somebody else writes. A file has the last answer alone.
        command = f"{LINES[label]} -sS --retry 5 -o {answer.name} -w '%{{http_code}}'"
        environ = {**os.environ, **variables}
        done = subprocess.run(["bash", "-uc", command], capture_output=True, text=True, check=False, env=environ)
        return done.stdout, Path(answer.name).read_text() + done.stderr


def test_every_line_of_curl_works(variables):
    assert PAGE.count("\ncurl ") == len(LINES) > 40
    for label in LINES:
        code, answer = answered(label, variables)
        assert code.startswith("2"), (label, code, answer)
        assert '"status":"FAILED"' not in answer, (label, answer)


def test_what_the_lines_change_is_changed(yard, variables):
    for label in ("cancel a run", "retry a run", "change a priority"):
        answered(label, variables)
    assert yard.read(variables["LIVING"])["state_type"] == "CANCELLING"
    assert yard.read(variables["FAILED"])["state_name"] == "AwaitingRetry"
    assert yard.read(variables["WAITING"])["job_variables"]["priority"] == 1


def test_a_run_by_hand_lies_in_its_queue_until_its_time(variables):
    assert json.loads(answered("start a run on a device", variables)[1])["work_queue_name"] == "cuda:1.training"
    due = json.loads(answered("start later", variables)[1])["next_scheduled_start_time"]
    assert datetime.fromisoformat(due) == datetime(2030, 11, 24, 7, tzinfo=UTC)


def test_every_key_of_a_document_is_explained(yard):
    run = yard.create("train_classifier", parameters={"dataset": "/d"})
    keys = {*RunRow.__slots__, *read_details(yard.api, run)}
    said = PAGE[PAGE.index("## `--json`") :]
    assert [key for key in sorted(keys) if f"`{key}`" not in said] == []


def test_every_call_that_a_table_names_has_its_line():
    assert set(re.findall(r"(?<!\w)_(\w[^_|]*)_(?!\w)", PAGE)) <= set(LINES)


@pytest.mark.parametrize("name", ["model", "num_classes", "train_path", "val_path", "save_path", "batch_size"])
def test_every_parameter_of_the_old_service_has_its_row(name):
    assert re.search(rf"^\|[^|]*\b{name}\b[^|]*\|", PAGE, re.M)


def test_every_key_of_the_old_files_is_named():
    from tasks.base.config import RFUAV_KEYS

    assert [key for key in RFUAV_KEYS if f"`{key}`" not in PAGE] == []


def test_every_parameter_that_is_named_is_one():
    from tasks.classification.params import AugmentParams, SplitParams, TrainParams

    sections = {"train": TrainParams, "split": SplitParams, "augment": AugmentParams}
    named = re.findall(r"\b(train|split|augment)\.(\w+)", re.sub(r"split/report\.json|[\w/]+\.json", "", PAGE))
    assert [f"{part}.{name}" for part, name in named if name not in sections[part].model_fields] == []
