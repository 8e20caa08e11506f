"""Asks questions batch by batch; where a schema is given, once more what does not fit it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from PIL import Image

from tasks.images.params import PrepareParams
from tasks.vision_language.describe.answer_log import Answer
from tasks.vision_language.describe.answer_schema import AnswerSchema, complaint
from tasks.vision_language.describe.loading import Loaded, loaded
from tasks.vision_language.describe.model import Asker, Reply
from tasks.vision_language.describe.questions import Question

Messages = list[dict[str, Any]]


@dataclass(slots=True, eq=False)
class Talk:
    """A question with all that was said about it."""

    asked: Loaded
    messages: Messages = field(default_factory=list)  # as transformers' templates have them, without the last reply
    replies: list[Reply] = field(default_factory=list)
    value: Any = None  # of the last reply, where it fits the schema
    fault: str | None = None
    refusal: str | None = None  # why the model could not be asked
    seconds: float = 0.0
    began_ns: int = 0  # Unix time
    ended_ns: int = 0

    @property
    def answer(self) -> Answer:
        """Return what came of it."""
        key, error = self.asked.question.key, self.asked.error
        if error is not None or not self.replies:
            return Answer(key, error=error or self.refusal)
        last = self.replies[-1]
        return Answer(
            key,
            text=last.text,
            n_prompt=sum(reply.n_prompt for reply in self.replies),
            n_new=sum(reply.n_new for reply in self.replies),
            seconds=self.seconds,
            finish=last.finish,
            n_asked=len(self.replies),
            value=self.value,
            fault=self.fault,
        )


def asking(
    questions: Sequence[Question], asker: Asker, schema: AnswerSchema | None, prepare: PrepareParams, n_workers: int = 0
) -> Iterator[list[Talk]]:
    """Yield batches of questions in order, each with what came of it; one that cannot be asked is among them.

    Args:
        questions: to be asked.
        asker: the model.
        schema: that answers must fit; None: they are free text.
        prepare: the bounds of every image.
        n_workers: threads that prepare images; 0: as many as cores.

    Raises:
        Interrupted: a signal has come.
    """
    ready = loaded(questions, prepare, n_workers)
    while batch := list(islice(ready, asker.size)):
        talks = [Talk(one, _opening(one, schema)) for one in batch]
        _ask([talk for talk in talks if talk.asked.error is None], asker, schema)
        if again := [talk for talk in talks if talk.fault is not None]:
            for talk in again:
                talk.messages += _objection(talk)
            _ask(again, asker, schema)
        yield talks


def _opening(asked: Loaded, schema: AnswerSchema | None) -> Messages:
    prompt = asked.question.prompt if schema is None else schema.with_prompt(asked.question.prompt)
    images = [{"type": "image", "image": Image.fromarray(rgb)} for rgb in asked.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}]


def _objection(talk: Talk) -> Messages:
    assert talk.fault is not None, "only what does not fit is asked again"
    said = [("assistant", talk.replies[-1].text), ("user", complaint(talk.fault))]
    return [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]


def _ask(talks: Sequence[Talk], asker: Asker, schema: AnswerSchema | None) -> None:
    began_ns, began = time.time_ns(), time.perf_counter()
    replies = asker.ask([talk.messages for talk in talks])
    share, ended_ns = (time.perf_counter() - began) / max(1, len(talks)), time.time_ns()
    for talk, reply in zip(talks, replies, strict=True):
        talk.began_ns, talk.ended_ns = talk.began_ns or began_ns, ended_ns
        talk.seconds += share
        if reply.refusal is not None:
            talk.refusal = reply.refusal
        else:
            talk.replies.append(reply)
            if schema is not None:
                talk.value, talk.fault = schema.check(reply.text)
