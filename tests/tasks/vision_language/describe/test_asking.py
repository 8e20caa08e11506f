"""A batch answers as each question alone; memory that runs out, and answers that do not fit, are no end."""

import json

import cv2
import numpy as np
import pytest
import torch

from tasks.base.errors import ConfigError, WeightsError
from tasks.images.params import PrepareParams
from tasks.vision_language.describe.answer_schema import AnswerSchema
from tasks.vision_language.describe.asking import asking
from tasks.vision_language.describe.model import Asker, fitting, load_model
from tasks.vision_language.describe.params import AnswerGradeParams, ReadParams
from tasks.vision_language.describe.questions import find_questions

SCHEMA = AnswerSchema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


def questions(data, prompt="What is on the image?"):
    return find_questions(data, prompt, ReadParams(), AnswerGradeParams())


def answers(data, asker, schema=None, prompt="What is on the image?"):
    batches = asking(questions(data, prompt), asker, schema, PrepareParams(), 1)
    return [talk.answer for talks in batches for talk in talks]


def test_a_batch_answers_as_each_question_alone(model, pictures):
    (pictures / "t.jsonl").write_text(
        '{"images": ["cat/0.png", "dog/1.png"]}\n{"images": ["dog/2.png"]}\n{"images": ["cat/1.png"]}\n'
    )
    together = answers(pictures / "t.jsonl", Asker(*model, 30, 3, print))
    alone = answers(pictures / "t.jsonl", Asker(*model, 30, 1, print))
    assert [(a.text, a.n_prompt, a.n_new, a.finish) for a in together] == [
        (a.text, a.n_prompt, a.n_new, a.finish) for a in alone
    ]
    assert together[0].n_prompt > together[1].n_prompt
    assert {a.finish for a in together} <= {"stop", "length"}
    assert all(a.n_new == 30 for a in together if a.finish == "length")
    assert all(a.seconds > 0 and a.n_asked == 1 for a in together)


def test_the_end_of_an_answer_is_told_from_the_padding_after_it(scripted, pictures):
    found = answers(pictures, scripted("a", "a longer answer", batch_size=6))
    assert [answer.text for answer in found] == ["a", "a longer answer", "yes", "yes", "yes", "yes"]
    assert found[0].n_new < found[1].n_new
    assert {answer.finish for answer in found} == {"stop"}


def test_the_batch_is_halved_where_memory_runs_out(scripted, pictures):
    asker = scripted(*"abcdef", most=2, batch_size=6)
    assert [answer.text for answer in answers(pictures, asker)] == list("abcdef")
    assert asker.model.sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    assert asker.notes[0] == "the device's memory does not hold 6 questions at once: 3 from now on"
    assert asker.size == 1


def test_a_question_that_memory_does_not_hold_alone_is_named(scripted, pictures):
    found = answers(pictures, scripted(most=0))
    assert all("memory does not hold this question" in answer.error for answer in found)
    assert all(answer.text is None for answer in found)


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(scripted, pictures):
    asker = scripted()
    asker.model.generate = lambda **inputs: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        answers(pictures, asker)


def test_an_answer_that_does_not_fit_is_asked_again_with_the_error_told(scripted, pictures):
    asker = scripted('{"n": 3}', "three", '```json\n{"n": 4}\n```', *['{"n": "x"}'] * 7, batch_size=3)
    found = answers(pictures, asker, SCHEMA)
    assert [answer.value for answer in found] == [{"n": 3}, None, {"n": 4}, None, None, None]
    assert [answer.n_asked for answer in found] == [1, 2, 1, 2, 2, 2]
    assert [answer.fault is None for answer in found] == [True, False, True, False, False, False]
    assert found[3].fault == "does not fit the schema: at $.n, 'x' is not of type 'integer'"
    assert found[3].text == '{"n": "x"}'
    again = asker.model.prompts[3]
    assert "three" in again
    assert "Your answer is not JSON" in again
    assert again.count("assistant") == 2
    assert json.dumps(SCHEMA.schema) in again


def test_an_answer_that_fits_the_second_time_is_taken(scripted, pictures):
    (answer,) = answers(pictures / "cat" / "0.png", scripted("none", '{"n": 0}'), SCHEMA)
    assert (answer.value, answer.fault, answer.n_asked, answer.text) == ({"n": 0}, None, 2, '{"n": 0}')
    assert answer.n_prompt > 2 * answer.n_new


def test_a_damaged_image_does_not_stop_the_others(scripted, pictures):
    (pictures / "cat" / "1.png").write_bytes(b"nothing")
    found = answers(pictures, scripted(*"abcde"))
    assert [answer.text for answer in found] == ["a", None, "b", "c", "d", "e"]
    assert "1.png" in found[1].error


def test_an_image_that_the_processor_does_not_take_does_not_stop_the_others(model, pictures):
    cv2.imwrite(str(pictures / "cat" / "1a.png"), np.zeros((3, 1024, 3), np.uint8))  # Qwen's takes up to 200:1
    found = answers(pictures, Asker(*model, 5, 7, print))
    errors = [answer.error for answer in found]
    assert [error is None for error in errors] == [True, True, False, True, True, True, True]
    assert errors[2] == (
        "this model's processor does not take it (ValueError: absolute aspect ratio must be smaller than 200, "
        "got 341.3333333333333)"
    )
    (pictures / "cat" / "1a.png").unlink()
    alone = answers(pictures, Asker(*model, 5, 7, print))
    assert [answer.text for answer in found if answer.error is None] == [answer.text for answer in alone]


def test_where_the_processor_takes_no_image_each_is_named(model, pictures):
    for path in pictures.rglob("*.png"):
        cv2.imwrite(str(path), np.zeros((1024, 2, 3), np.uint8))
    found = answers(pictures, Asker(*model, 5, 4, print))
    assert all("aspect ratio" in answer.error for answer in found)


def test_batches_are_as_large_as_memory_allows():
    assert fitting(10_000, 1000) == 8
    assert fitting(100, 1000) == 1
    assert fitting(10**12, 1) == 64


def test_a_folder_that_is_no_model_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="fp16 on the CPU"):
        load_model(tiny, torch.device("cpu"), "fp16")
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing at all")
    with pytest.raises(WeightsError, match="transformers cannot load this model"):
        load_model(tmp_path, torch.device("cpu"), "auto")
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(WeightsError, match="found no chat template"):
        load_model(tmp_path, torch.device("cpu"), "auto")
