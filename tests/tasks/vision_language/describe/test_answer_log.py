"""Answers are kept as they come; what a kill tears is asked again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tasks.base.errors import StorageError
from tasks.images.params import PrepareParams
from tasks.vision_language.describe.answer_log import Answer, AnswerLog
from tasks.vision_language.describe.asking import asking
from tasks.vision_language.describe.model import Asker, load_model
from tasks.vision_language.describe.params import AnswerGradeParams, ReadParams
from tasks.vision_language.describe.questions import find_questions
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


def ask_the_rest(images, folder, model):
    """Ask what has no answer in the folder yet; return how many questions that were."""
    questions = find_questions(images, "What?", ReadParams(), AnswerGradeParams())
    with AnswerLog(folder) as kept:
        todo = [question for question in questions if question.key not in kept.answers]
        for talks in asking(todo, Asker(*model, 60, 2, print), None, PrepareParams(), 1):
            kept.add([talk.answer for talk in talks])
    return len(todo)


def test_after_kill_9_what_has_its_answer_is_not_asked_again(tmp_path, pictures, tiny, model):
    images = tmp_path / "many"
    images.mkdir()
    for i in range(60):
        os.link(pictures / "cat" / f"{i % 3}.png", images / f"{i}.png")
    # A new interpreter, no fork: torch's threads and locks do not outlive one.
    process = subprocess.Popen([sys.executable, __file__, images, tmp_path, tiny])
    while not (tmp_path / LOG).exists() or (tmp_path / LOG).read_bytes().count(b"\n") < 6:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    n_before = (tmp_path / LOG).read_bytes().count(b"\n")
    assert 6 <= n_before < 60, "killed amid the work"
    assert ask_the_rest(images, tmp_path, model) == 60 - n_before
    keys = [json.loads(line)["key"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 60


if __name__ == "__main__":  # the process that is killed
    ask_the_rest(Path(sys.argv[1]), Path(sys.argv[2]), load_model(Path(sys.argv[3]), torch.device("cpu"), "auto")[:2])
