"""A question over many images as a person asks it: tables, grades, traces; killed and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from deployments.runs.local import check_parameters
from flows.describing import describe
from tasks.base.config import read_parameters
from tasks.base.errors import ConfigError, DatasetError
from tasks.tracking import mlflow_api
from tasks.vision_language.describe.classifier_table import read_classifier
from tasks.vision_language.describe.params import (
    AnswerGradeParams,
    AnswersTrackParams,
    AskParams,
    CompareParams,
    ReadParams,
)
from tasks.vision_language.describe.questions import find_questions
from tests.tasks.vision_language.yard_serve import make_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "pets"
    for name, colour in (("cat", (30, 90, 200)), ("dog", (200, 90, 30))):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            picture = np.full((48, 64, 3), colour, np.uint8)
            cv2.circle(picture, (32, 24), 5 + 5 * i, (255, 255, 255), -1)
            cv2.imwrite(str(folder / name / f"{i}.png"), picture)
    (folder / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


def asked(tiny, **more):
    return AskParams(model=tiny, **{"prompt": "Cat or dog?", "device": "cpu", "max_tokens": 8, "n_workers": 1, **more})


def folder_of(run_id, home):
    return home / "runs" / mlflow_api.client().get_run(run_id).data.tags["prefect.flow_run_id"] / "description"


@pytest.fixture(scope="module")
def done(prefect_api, yard_home, tiny, pets, tmp_path_factory):
    """Return the id of the run, graded by folder and compared with a classifier that says dog to all but one."""
    table = tmp_path_factory.mktemp("classifier") / "predictions.csv"
    rows = [(f"test/{path.parent.name}/{path.name}", "dog") for path in sorted(pets.rglob("*.png"))]
    rows[0] = (rows[0][0], "cat")
    pd.DataFrame(rows, columns=["path", "predicted"]).to_csv(table, index=False)
    grade, compare = AnswerGradeParams(by_folder=True), CompareParams(table=table)
    return describe(pets, asked(tiny), grade=grade, compare=compare, track=AnswersTrackParams(traces=4))


def test_the_table_has_an_answer_to_every_image_and_names_the_one_that_is_broken(done, yard_home, pets):
    folder = folder_of(done, yard_home)
    table = pd.read_csv(folder / "answers.csv")
    assert [Path(path) for path in table["images"]] == sorted(path for path in pets.rglob("*.*"))
    good = table[table["error"].isna()]
    assert len(good) == 8
    assert good["text"].notna().all()
    assert (good[["prompt_tokens", "completion_tokens", "seconds"]] > 0).all(axis=None)
    assert set(good["finish_reason"]) <= {"length", "stop"}
    assert "broken.jpg" in table["error"].dropna().iloc[0]
    assert len(pd.read_parquet(folder / "answers.parquet")) == 9
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines if line["text"]] == good["text"].tolist()


def test_grades_stand_beside_those_of_a_classifier(done, yard_home):
    found = json.loads((folder_of(done, yard_home) / "description.json").read_text())
    assert {name: row["answers"] for name, row in found["per_class"].items()} == {"cat": 4, "dog": 4}
    assert (found["compared/images"], found["compared/classifier_accuracy"]) == (8, 5 / 8)
    assert found["compared_per_class"]["cat"]["classifier_right"] == 1
    assert sum(map(sum, found["confusion"]["counts"])) == 8


def test_mlflow_holds_tables_metrics_gallery_and_traces(done, tiny):
    client = mlflow_api.client()
    run = client.get_run(done)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny-pets")
    assert client.get_experiment(run.info.experiment_id).name == "answers"
    assert (run.data.metrics["questions/all"], run.data.metrics["questions/failed"]) == (9, 1)
    assert run.data.metrics["questions/images_per_second"] > 0
    assert run.data.metrics["questions/tokens_per_second"] > 0
    assert 0 <= run.data.metrics["answers/accuracy"] <= 1
    assert run.data.params["ask.prompt"] == "Cat or dog?"
    files = {Path(item.path).name for item in client.list_artifacts(done, "description")}
    tables = {"answers.csv", "answers.parquet", "answers.jsonl"}
    assert files == tables | {"description.json", "gallery.png", "confusion_matrix.png"}
    traces = client.search_traces([run.info.experiment_id], filter_string=f"attributes.run_id = '{done}'")
    assert len(traces) == 4, "as many as asked for, spread over all"
    (message,) = traces[0].data.spans[0].inputs["messages"]
    assert message["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert message["content"][1]["text"] == "Cat or dog?"


def test_a_run_in_mlflow_is_compared_with(done, pets, tmp_path):
    client = mlflow_api.client()
    run = client.create_run(client.get_run(done).info.experiment_id).info.run_id
    rows = [(str(path), "dog") for path in pets.rglob("*.png")]
    pd.DataFrame(rows, columns=["path", "class"]).to_parquet(tmp_path / "predictions.parquet")
    client.log_artifact(run, str(tmp_path / "predictions.parquet"), "prediction")
    questions = find_questions(pets, "Cat or dog?", ReadParams(), AnswerGradeParams())
    assert list(read_classifier(CompareParams(run=run), questions).values()) == ["dog"] * 8
    for other in (done, "0" * 32):
        with pytest.raises(ConfigError, match=f"found no predictions of a run {other}, need one of predict"):
            read_classifier(CompareParams(run=other), questions)


def test_prefect_shows_a_summary(done):
    run_id = mlflow_api.client().get_run(done).data.tags["prefect.flow_run_id"]
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        shown = {page.key: page for page in client.read_artifacts(artifact_filter=wanted)}
    assert shown["summary"].data.startswith("# 8 of 9 questions answered by tiny")
    assert "| right answer | images | this model | classifier |" in shown["summary"].data
    assert "broken.jpg" in shown["summary"].data
    assert shown["description-progress"].data == 100


def test_a_schema_that_no_answer_fits_is_told_for_each(prefect_api, yard_home, tiny, pets):
    run = describe(pets / "cat", asked(tiny, json_schema={"$defs": {"a": {}}, "type": "object"}))
    table = pd.read_csv(folder_of(run, yard_home) / "answers.csv")
    assert (table["times_asked"] == 2).all()
    assert not table["valid"].any()
    assert table["error"].str.startswith("is not JSON").all()
    assert mlflow_api.client().get_run(run).data.metrics["answers/valid"] == 0


def test_a_table_is_asked_about_row_by_row_and_keeps_its_columns(prefect_api, yard_home, tiny, pets):
    (pets / "pairs.csv").write_text("image,part,text\ncat/0.png;cat/1.png,bolt,mine\ndog/0.png,nut,mine\n")
    run = describe(pets / "pairs.csv", asked(tiny, prompt="Where is the {part}?"), ReadParams(images="image"))
    table = pd.read_csv(folder_of(run, yard_home) / "answers.csv")
    assert table["prompt"].tolist() == ["Where is the bolt?", "Where is the nut?"]
    assert table["prompt_tokens"][0] > table["prompt_tokens"][1]
    assert (table["part"].tolist(), table["table_text"].tolist()) == (["bolt", "nut"], ["mine", "mine"])


def test_what_is_wrong_is_told_before_a_model_is_loaded(prefect_api, yard_home, tiny, pets, tmp_path):
    with pytest.raises(ConfigError, match="found no folder .*absent"):
        describe(pets, asked(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="no right answers: need grade.by_folder"):
        describe(pets, asked(tiny), compare=CompareParams(table=tmp_path / "t.csv"))
    with pytest.raises(DatasetError, match="none of 1 question"):
        describe(pets / "dog" / "broken.jpg", asked(tiny))
    pd.DataFrame({"path": ["other/1.png"], "class": ["cat"]}).to_csv(tmp_path / "t.csv")
    grade = AnswerGradeParams(by_folder=True)
    with pytest.raises(ConfigError, match=r"found none of 9 question\(s\) among 1 image"):
        describe(pets, asked(tiny), grade=grade, compare=CompareParams(table=tmp_path / "t.csv"))


def yard(home, *words, **options):
    # A Prefect of its own, as where no server is up; what the tests have of theirs is left out.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [str(Path(sys.executable).parent / "yard"), *map(str, words)]
    return subprocess.Popen(
        command,
        env={**environ, "TRAINYARD_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.fixture
def begin(tmp_path, tiny, pets):
    """Return a function that starts `yard run describe` on so many images; it returns the home and the process."""

    def begin(n_images, *settings):
        images, home = tmp_path / "many", tmp_path / "home"
        images.mkdir()
        for i in range(n_images):
            os.link(pets / "cat" / f"{i % 4}.png", images / f"{i:03}.png")
        words = ["--data", images, "--device", "cpu"]
        for setting in ("ask.prompt=What?", f"ask.model={tiny}", *settings):
            words += ["--set", setting]
        return home, yard(home, "run", "describe", *words)

    return begin


def wait_for_lines(home, process, n):
    deadline = time.monotonic() + 200
    while len(lines_of(home)) < n:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines_of(home):
    return [line for path in home.glob("runs/*/description/asked.jsonl") for line in path.read_text().splitlines()]


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_without_asking_twice(begin):
    home, process = begin(120, "ask.batch_size=2", "ask.max_tokens=40", "track.traces=30")
    try:
        wait_for_lines(home, process, 20)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before = lines_of(home)
    assert 20 <= len(before) < 120, "killed amid the work"
    process = yard(home, "resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    after = lines_of(home)
    assert after[: len(before)] == before
    assert len(after) == len({json.loads(line)["key"] for line in after}) == 120, "each question is asked once"
    assert f"{len(before)} of 120 questions are answered already" in output
    (table,) = home.glob("runs/*/description/answers.csv")
    assert pd.read_csv(table)["text"].notna().all()
    client = mlflow_api.client(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    run_id = json.loads((table.parent / "run.json").read_text())["run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    experiment = client.get_run(run_id).info.experiment_id
    assert len(client.search_traces([experiment], max_results=100)) == 30


@pytest.mark.long
def test_ctrl_c_ends_a_run_between_two_batches(begin):
    home, process = begin(200, "ask.batch_size=1", "ask.max_tokens=200")
    try:
        wait_for_lines(home, process, 3)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert 3 <= len(lines_of(home)) < 200
    assert not list(home.glob("runs/*/description/answers.csv")), "nothing that looks whole"


PAGE = (ROOT / "docs" / "vision-language.md").read_text()
CHAPTER = PAGE[PAGE.index("## A question over a whole folder") :].split("\n## ")[0]
MODEL = "/models/Qwen2.5-VL-7B-Instruct"


@pytest.fixture
def typed(tmp_path, tiny, pets):
    """Return a folder with the files of the chapter's example, and the images they name."""
    (name, table), (other, question) = (
        (re.search(rf"`({word}\.\w+)`", CHAPTER)[1], re.search(rf"```{kind}\n(.*?)```", CHAPTER, re.S)[1])
        for word, kind in (("parts", "csv"), ("question", "yaml"))
    )
    (tmp_path / name).write_text(table)
    (tmp_path / other).write_text(question.replace(MODEL, str(tiny)))
    for folder in ("before", "after", "photos"):
        (tmp_path / folder).mkdir()
        for i in (1, 2):
            os.link(pets / "cat" / f"{i}.png", tmp_path / folder / f"{i}.jpg")
    return tmp_path


def test_the_example_of_the_page_does_what_it_says(prefect_api, yard_home, typed):
    parameters = check_parameters(describe, {**read_parameters(typed / "question.yaml"), "data": typed / "parts.csv"})
    parameters["ask"] = parameters["ask"].model_copy(update={"device": "cpu", "max_tokens": 8})
    table = pd.read_csv(folder_of(describe(**parameters), yard_home) / "answers.csv")
    assert table["prompt"].str.contains("shows a (?:bolt|nut) before its use").all()
    assert table["times_asked"].tolist() == [2, 2]
    assert table["right_answer"].tolist() == ["worn", "good"]
    columns = re.search(r"a row for each question: (.*?), and the columns", CHAPTER)[1]
    assert [*table.columns] == [*re.findall(r"`(\w+)`", columns.replace("(`length`", "")), "part", "state"]


@pytest.mark.long
def test_the_lines_of_the_page_run_as_they_stand(typed, tiny):
    lines = re.findall(r"^    (yard run describe --data (?:.*\\\n)*.*|yard run describe -f .*)$", CHAPTER, re.M)
    assert len(lines) == 2
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environ |= {"TRAINYARD_HOME": str(typed / "home"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        command = line.replace(MODEL, str(tiny)).replace("cuda:1", "cpu") + " --set ask.max_tokens=8"
        done = subprocess.run(
            ["bash", "-c", command], cwd=typed, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "answers.csv (and .parquet, .jsonl)" in done.stdout
