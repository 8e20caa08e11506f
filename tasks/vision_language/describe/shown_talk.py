"""Turns a question and its answer into a trace for MLflow, with small copies of its images."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from tasks.images.images import encode_jpeg
from tasks.images.params import PrepareParams
from tasks.images.prepare import bounded
from tasks.tracking.traces import Trace
from tasks.vision_language.describe.asking import Talk
from tasks.vision_language.describe.grading import Grade
from tasks.vision_language.describe.table_file import as_utf8

_SMALL = PrepareParams(max_side=256)
_QUALITY = 80
_TAG = 1000  # characters
_MOST_IMAGES = 16  # of one trace, which MLflow's database holds


def chosen(n_questions: int, n_traces: int) -> frozenset[int]:
    """Return the numbers of the questions that MLflow shows, spread over all; the same for the same data."""
    n = min(n_questions, n_traces)
    return frozenset(i * n_questions // n for i in range(n))


def trace_of(talk: Talk, grade: Grade | None, model: str, max_tokens: int) -> Trace:
    """Return a question with all that was said about it, the images at most 256 pixels a side.

    Args:
        talk: one that was asked.
        grade: None where it is not graded.
        model: its name.
        max_tokens: as it was asked with.
    """
    question, answer = talk.asked.question, talk.answer
    text, name = answer.text or "", _name(talk)
    reply = {"role": "assistant", "content": text}
    return Trace(
        key=question.key,
        name=name,
        began_ns=talk.began_ns,
        ended_ns=talk.ended_ns,
        inputs={"model": model, "max_tokens": max_tokens, "messages": [_shown(each) for each in talk.messages]},
        outputs={"choices": [{"index": 0, "message": reply, "finish_reason": answer.finish}]},
        question=name,  # not the prompt: by equal ones MLflow pairs runs, whatever their prompts are
        answer=text,
        n_prompt=answer.n_prompt,
        n_new=answer.n_new,
        model=model,
        error=answer.error or answer.fault,
        right_answer=None if grade is None else grade.right_answer,
        correct=None if grade is None else grade.correct,
        tags={"images": as_utf8(";".join(map(str, question.images)))[:_TAG], "prompt": question.prompt[:_TAG]},
    )


def _name(talk: Talk) -> str:
    question = talk.asked.question
    name = as_utf8("/".join(question.images[0].parts[-2:]))
    if question.times:
        name += f" at {question.times[0]:.1f} s"
    elif len(question.images) > 1:
        name += f" and {len(question.images) - 1} more"
    return f"row {question.number + 1}: {name}" if question.values else name


def _shown(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as OpenAI's API has it."""
    content, n_images = [], 0
    for part in message["content"]:
        n_images += part["type"] == "image"
        if part["type"] == "text":
            content.append(part)
        elif n_images <= _MOST_IMAGES:
            content.append({"type": "image_url", "image_url": {"url": _small(part["image"])}})
    return {"role": message["role"], "content": content}


def _small(image: Image.Image) -> str:
    jpeg = encode_jpeg(bounded(np.asarray(image), _SMALL), _QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
