"""What people see of a run: tables that open everywhere, a summary, a gallery, traces with small pictures."""

import base64
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.images.params import PrepareParams
from tasks.vision_language.describe.answer_log import Answer
from tasks.vision_language.describe.answer_schema import AnswerSchema
from tasks.vision_language.describe.asking import asking
from tasks.vision_language.describe.params import AnswerGradeParams, AskParams, CompareParams, ReadParams
from tasks.vision_language.describe.plan import make_plan
from tasks.vision_language.describe.questions import Question, find_questions
from tasks.vision_language.describe.report import Pace, markdown, write_report
from tasks.vision_language.describe.resume_point import resume_point
from tasks.vision_language.describe.shown_talk import chosen, trace_of
from tasks.vision_language.describe.tables import row_of, write_tables

ABOUT = {
    "model": "tiny",
    "prompt": "Cat or dog?",
    "max_tokens": 8,
    "device": "cpu",
    "precision": "fp32",
    "batch_size": 4,
}


def plan_of(data, *, schema=None, table=None):
    ask = AskParams(model=Path("/model"), prompt="Cat or dog?", json_schema=schema)
    compare = CompareParams(table=table)
    return make_plan(data, ask, ReadParams(), AnswerGradeParams(by_folder=True), compare)


@pytest.fixture
def report(pictures):
    """Return the report on six images: three right, one wrong, one undecided, one not asked; and their plan."""
    rows = [(str(path), "dog") for path in sorted(pictures.rglob("*.png"))]
    pd.DataFrame(rows, columns=["path", "class"]).to_csv(pictures.parent / "t.csv")
    plan = plan_of(pictures, table=pictures.parent / "t.csv")
    texts = ["a cat", "cat", "a dog", "dog", "no idea"]
    answers = {
        question.key: Answer(question.key, text, 90, 3, 0.5, "length" if text == "dog" else "stop", 1)
        for question, text in zip(plan.questions, texts, strict=False)
    }
    last = plan.questions[-1].key
    return plan.report({**answers, last: Answer(last, error="damaged")}, Pace(5, 5, 15, 2.0)), plan


def test_the_summary_has_grades_side_by_side_and_what_failed(report):
    text = markdown(report[0], ABOUT, "http://mlflow/run")
    for told in (
        "# 5 of 6 questions answered by tiny",
        "2.50 images and 7.5 tokens a second on cpu in fp32, 4 question(s) at once.",
        "> Cat or dog?",
        "1 answer(s) are cut off at 8 tokens",
        "**3 of 5 right, 60.0%.** In 1 no choice was found, or several.",
        "| cat | 3 | 66.7% | 0.0% |",
        "| dog | 2 | 50.0% | 100.0% |",
        "| **all** | 5 | 60.0% | 40.0% |",
        "Both right: 1; only this model: 2; only the classifier: 1.",
        "- row 6: damaged",
        "http://mlflow/run",
    ):
        assert told in text, text


def test_figures_are_for_programs_too(report, tmp_path):
    found, plan = report
    names = write_report(found, ABOUT, plan.questions, PrepareParams(), "tiny", tmp_path)
    assert names == ["description.json", "gallery.png", "confusion_matrix.png"]
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    figures = json.loads((tmp_path / "description.json").read_text())
    assert (figures["answers/accuracy"], figures["compared/classifier_accuracy"]) == (0.6, 0.4)
    assert figures["confusion"] == {"classes": ["cat", "dog", "(none)"], "counts": [[2, 1, 0], [0, 1, 1], [0, 0, 0]]}
    assert figures["tokens/completion"] == 15


def test_a_run_that_had_nothing_left_to_ask_says_no_pace(report):
    nothing = report[1].report(
        {q.key: Answer(q.key, "cat", 9, 1, 0.1, "stop", 1) for q in report[1].questions}, Pace(0, 0, 0, 0.0)
    )
    assert nothing.metrics()["questions/images_per_second"] is None
    assert "a second" not in markdown(nothing, {"model": "tiny", "prompt": "Cat or dog?", "max_tokens": 8}, "url")


def test_tables_hold_whatever_texts_and_names_there_are(tmp_path):
    path = Path(os.fsdecode(b"/d/\xff.png"))
    values = {"id": "1;2", "text": "theirs"}
    question = Question(0, (path, Path("/d/b.png")), 'say "hi",\nplease', values=values)
    answer = Answer("k", 'line\nline, "quoted" \u732b \U0001f431', 9, 3, 0.5, "stop", 1, value={"a": "\u732b"})
    names = write_tables([row_of(question, answer, None, None, schema=True)], tmp_path)
    tables = [pd.read_csv(tmp_path / names[0]), pd.read_parquet(tmp_path / names[1])]
    tables.append(pd.read_json(tmp_path / names[2], lines=True, dtype=False))
    for table in tables:
        row = table.iloc[0]
        assert row["text"] == answer.text
        assert row["prompt"] == question.prompt
        assert row["images"] == "/d/\\xff.png;/d/b.png"
        assert (row["id"], row["table_text"]) == ("1;2", "theirs")
        assert json.loads(row["json"]) == {"a": "\u732b"}
        assert row["valid"]


def test_traces_are_spread_over_all_questions():
    assert chosen(10, 3) == {0, 3, 6}
    assert chosen(3, 10) == {0, 1, 2}
    assert chosen(5, 0) == chosen(0, 5) == frozenset()


def test_a_trace_shows_the_whole_talk_with_small_pictures(scripted, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8))
    schema = AnswerSchema({"type": "object"})
    questions = find_questions(tmp_path / "a.jpg", "What?", ReadParams(), AnswerGradeParams())
    ((talk,),) = asking(questions, scripted("nothing", "{}"), schema, PrepareParams())
    trace = trace_of(talk, None, "tiny", 20)
    first, said, objection = trace.inputs["messages"]
    assert (said["role"], said["content"][0]["text"]) == ("assistant", "nothing")
    assert "not JSON" in objection["content"][0]["text"]
    assert trace.outputs["choices"][0]["message"]["content"] == "{}"
    url = first["content"][0]["image_url"]["url"]
    jpeg = np.frombuffer(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")), np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (170, 256, 3)
    assert trace.question == trace.name == f"{tmp_path.name}/a.jpg"
    assert (trace.tags["prompt"], trace.error) == ("What?", None)
    assert trace.ended_ns > trace.began_ns > 10**18
    json.dumps(trace.inputs)


def test_a_run_goes_on_from_its_answers(tmp_path):
    assert resume_point(tmp_path) is None
    (tmp_path / "description").mkdir()
    (tmp_path / "description" / "asked.jsonl").write_text('{"key": "a"}\n{"key": "b"}\n{"ke')
    assert resume_point(tmp_path) == "its 2 answer(s)"
