"""Answers are kept as they come; what a kill tears is asked again."""

import pytest

from tasks.base.errors import StorageError
from tasks.vision_language.describe.answer_log import Answer, AnswerLog
from tasks.vision_language.describe.resume_point import LOG


def test_answers_are_there_for_the_next_attempt(tmp_path):
    with AnswerLog(tmp_path) as log:
        log.add([Answer("a", "yes", 10, 2, 0.5, "stop", 1), Answer("b", error="damaged")])
        assert set(log.answers) == {"a", "b"}
    with AnswerLog(tmp_path) as log:
        assert log.answers == {"a": Answer("a", "yes", 10, 2, 0.5, "stop", 1)}, "what was damaged is tried again"


def test_a_torn_line_is_removed(tmp_path):
    with AnswerLog(tmp_path) as log:
        log.add([Answer("a", "yes"), Answer("b", "no")])
    content = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(content[:-5])
    with AnswerLog(tmp_path) as log:
        assert set(log.answers) == {"a"}
        log.add([Answer("b", "no")])
    assert (tmp_path / LOG).read_bytes() == content


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / LOG).write_text("nonsense\n")
    with pytest.raises(StorageError, match="remove it to ask all questions anew"), AnswerLog(tmp_path):
        pass
