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

_SMALL = PrepareParams(max_side=256)
_QUALITY = 80
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
    text = answer.text or ""
    reply = {"role": "assistant", "content": text}
    n_left = len(talk.asked.images) - _MOST_IMAGES
    return Trace(
        key=question.key,
        name=_name(talk),
        began_ns=talk.began_ns,
        ended_ns=talk.ended_ns,
        inputs={"model": model, "max_tokens": max_tokens, "messages": [_shown(each) for each in talk.messages]},
        outputs={"choices": [{"index": 0, "message": reply, "finish_reason": answer.finish}]},
        question=question.prompt,
        answer=text,
        n_prompt=answer.n_prompt,
        n_new=answer.n_new,
        model=model,
        error=answer.error or answer.fault,
        right_answer=None if grade is None else grade.right_answer,
        correct=None if grade is None else grade.correct,
        tags={
            "images": ";".join(map(str, question.images)),
            **({"images_left_out": str(n_left)} if n_left > 0 else {}),
        },
    )


def _name(talk: Talk) -> str:
    question = talk.asked.question
    name = question.images[0].name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if question.times:
        return f"{name} at {question.times[0]:.1f} s"
    return f"{name} and {len(question.images) - 1} more" if len(question.images) > 1 else name


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
