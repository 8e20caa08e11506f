"""Answers are graded by choice, word for word, or by what they contain."""

from pathlib import Path

import pytest

from tasks.base.errors import ConfigError
from tasks.vision_language.describe.answer_log import Answer
from tasks.vision_language.describe.grading import NONE, Grader, summed
from tasks.vision_language.describe.params import AnswerGradeParams
from tasks.vision_language.describe.questions import Question


def asked(*rights):
    return [Question(number, (Path(f"/{number}.png"),), "What?", right=right) for number, right in enumerate(rights)]


def grade(right, text, value=None, *, all_rights=("cat", "dog"), **params):
    questions = asked(right, *all_rights)
    grader = Grader(AnswerGradeParams(**params), questions, with_schema="field" in params)
    return grader(questions[0], Answer("k", text, value=value))


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("Cat", "cat"),
        ("It is a cat.", "cat"),
        ("A cat, yes: a CAT!", "cat"),
        ("a cat or a dog", None),
        ("concatenated", None),
        ("", None),
    ],
)
def test_the_one_choice_in_an_answer_is_what_it_says(text, read_as):
    assert grade("cat", text).read_as == read_as


def test_of_choices_within_each_other_the_longer_one_counts():
    rights = ("jet", "Jet_Fighter")
    assert grade("Jet_Fighter", "a jet fighter", all_rights=rights).correct
    assert not grade("jet", "a jet-fighter", all_rights=rights).correct
    assert grade("jet", "some jet", all_rights=rights).correct


def test_choices_are_found_where_no_spaces_are():
    assert grade("\u732b", "\u8fd9\u662f\u732b\u3002", all_rights=("\u732b", "\u72d7")).correct


def test_exact_and_contains():
    assert grade("Cat", " cat. ", mode="exact").correct
    assert not grade("cat", "a cat", mode="exact").correct
    assert grade("cat", "a Cat!", mode="contains").correct
    assert not grade("cat", "concatenated", mode="contains").correct


def test_a_field_of_an_answer_in_json_is_graded():
    assert grade("cat", '{"what": "cat", "not": "dog"}', {"what": "cat", "not": "dog"}, field="what").correct
    assert not grade("cat", "a cat", None, field="what").correct
    assert not grade("cat", "{}", {}, field="what").correct
    assert grade("3", '{"n": 3}', {"n": 3}, field="n", mode="exact").correct


def test_what_cannot_be_graded_is_refused_before_anything_is_asked():
    with pytest.raises(ConfigError, match="found no right answer"):
        Grader(AnswerGradeParams(), asked(None), with_schema=False)
    with pytest.raises(ConfigError, match="found the right answer 'cow', need one of grade.choices: cat, dog"):
        Grader(AnswerGradeParams(choices=("cat", "dog")), asked("cow"), with_schema=False)
    with pytest.raises(ConfigError, match="found grade.field=what without ask.json_schema"):
        Grader(AnswerGradeParams(field="what"), asked("cat"), with_schema=False)


def test_grades_are_summed_by_class_and_as_a_matrix():
    questions = asked("dog", "cat", "cat", "cat", None)
    grader = Grader(AnswerGradeParams(), questions, with_schema=False)
    texts = ["a dog", "cat", "dog", "who knows", "cat"]
    grades = [grader(q, Answer("k", text)) for q, text in zip(questions, texts, strict=True)]
    assert grades.pop() is None
    total = summed(grades, grader)
    assert (total.n, total.n_right, total.accuracy) == (4, 2, 0.5)
    assert total.per_class == {"cat": (3, 1), "dog": (1, 1)}
    assert total.classes == ["cat", "dog", NONE]
    assert total.confusion.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
