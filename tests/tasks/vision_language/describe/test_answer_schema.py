"""Answers in JSON are held against a schema; a model is told what does not fit."""

import pytest

from tasks.base.errors import ConfigError
from tasks.vision_language.describe.answer_schema import AnswerSchema

PART = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"n": 3}', {"n": 3}),
        ('\n {"n": 3} \n', {"n": 3}),
        ('```json\n{"n": 3}\n```', {"n": 3}),
        ('Here it is:\n```\n{"n": 3}\n```\nAnything else?', {"n": 3}),
    ],
)
def test_json_is_found_in_a_fenced_block_or_alone(text, value):
    assert AnswerSchema(PART).check(text) == (value, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("three", "is not JSON: Expecting value"),
        ("", "is not JSON"),
        ('{"n": 3', "is not JSON"),
        ('{"n": NaN}', "NaN is no number in JSON"),
        ('{"n": 12}', r"does not fit the schema: at \$.n, 12 is greater than the maximum of 9"),
        ("{}", "does not fit the schema: 'n' is a required property"),
        ("[" * 100_000, "is nested too deeply|is not JSON"),
    ],
)
def test_what_does_not_fit_is_said(text, fault):
    import re

    assert re.search(fault, AnswerSchema(PART).check(text)[1])


def test_a_schema_is_given_itself_or_as_a_file(tmp_path):
    (tmp_path / "part.json").write_text('{"type": "string"}')
    assert AnswerSchema(tmp_path / "part.json").check('"a"') == ("a", None)


def test_what_is_no_schema_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no JSON schema \(at \$.type, 'strin' is not valid.*: ask.json_schema"):
        AnswerSchema({"type": "strin"})
    (tmp_path / "part.json").write_text("[]")
    with pytest.raises(ConfigError, match="found a list, need a JSON schema"):
        AnswerSchema(tmp_path / "part.json")
    with pytest.raises(ConfigError, match="part.yaml"):
        AnswerSchema(tmp_path / "part.yaml")


def test_a_reference_to_another_place_is_not_followed():
    with pytest.raises(ConfigError, match=r"found a \$ref to 'http://localhost:1/a'"):
        AnswerSchema({"$ref": "http://localhost:1/a"}).check("{}")
