"""Grades answers against right ones: over all, by class, and which class is taken for which."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.base.errors import ConfigError
from tasks.vision_language.describe.answer_log import Answer
from tasks.vision_language.describe.params import AnswerGradeParams
from tasks.vision_language.describe.questions import Question
from tasks.vision_language.describe.table_file import as_text

NONE = "(none)"
"""What an answer is read as in which no choice is found, or several."""


@dataclass(frozen=True, slots=True)
class Grade:
    """How one answer is graded."""

    right_answer: str
    read_as: str | None  # of mode choice, the choice found; else the text that was graded
    correct: bool


class Grader:
    """Grades answers one by one.

    Args:
        params: how.
        questions: all of them.
        with_schema: whether answers are JSON.

    Raises:
        ConfigError: there is no right answer, one is no choice, or a field is named of answers that have none.
    """

    def __init__(self, params: AnswerGradeParams, questions: Sequence[Question], *, with_schema: bool) -> None:
        self.params = params
        found = sorted({question.right for question in questions if question.right is not None})
        if not found:
            raise ConfigError("found no right answer in the data, need one in grade.column at least")
        if params.field is not None and not with_schema:
            raise ConfigError(f"found grade.field={params.field} without ask.json_schema, need answers that are JSON")
        self.choices = list(dict.fromkeys(params.choices)) or found
        self._by_plain = {plain(choice): choice for choice in self.choices}
        if params.mode == "choice":
            if other := [right for right in found if plain(right) not in self._by_plain]:
                raise ConfigError(
                    f"found the right answer {other[0]!r}, need one of grade.choices: {', '.join(self.choices)}"
                )
        # The longest first: of "jet" and "jet fighter", only the latter is found in "a jet fighter".
        words = sorted(map(re.escape, filter(None, self._by_plain)), key=len, reverse=True)
        self._any = _whole("|".join(words))

    def __call__(self, question: Question, answer: Answer) -> Grade | None:
        """Return the grade of an answer; None where there is no answer, or no right one."""
        if question.right is None or answer.text is None:
            return None
        text = self._graded(answer)
        match self.params.mode:
            case "choice":
                right = self._by_plain[plain(question.right)]
                found = {self._by_plain[word] for word in self._any.findall(plain(text))}
                read_as = found.pop() if len(found) == 1 else None
                return Grade(right, read_as, read_as == right)
            case "exact":
                return Grade(question.right, text, _bare(text) == _bare(question.right))
            case "contains":
                word = _whole(re.escape(plain(question.right)))
                return Grade(question.right, text, word.search(plain(text)) is not None)

    def _graded(self, answer: Answer) -> str:
        if self.params.field is None:
            return answer.text or ""
        return as_text(answer.value.get(self.params.field)) if isinstance(answer.value, dict) else ""


def plain(text: str) -> str:
    """Return a text without case; spaces, dashes and underscores are one space: Dji_Mavic is "dji mavic"."""
    return re.sub(r"[\s_-]+", " ", text.casefold()).strip()


def _bare(text: str) -> str:
    return plain(text).strip(string.punctuation + " ")


def _whole(pattern: str) -> re.Pattern[str]:
    # Letters beyond ASCII may stand beside: not all scripts put spaces between words.
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grades:
    """What all grades come to."""

    n: int
    n_right: int
    per_class: dict[str, tuple[int, int]]  # right answer -> answers, right ones
    classes: list[str]  # of the confusion matrix; the last is NONE
    confusion: NDArray[np.int64] | None  # (C, C); row = right answer, column = read as; None: not of mode choice

    @property
    def accuracy(self) -> float:
        """Return the share of right answers, in [0, 1]."""
        return self.n_right / max(1, self.n)


def summed(grades: Sequence[Grade], grader: Grader) -> Grades:
    """Return what grades come to; by class and as a matrix where the answers are choices."""
    per_class: dict[str, tuple[int, int]] = {}
    for grade in sorted(grades, key=lambda grade: grade.right_answer):
        n, n_right = per_class.get(grade.right_answer, (0, 0))
        per_class[grade.right_answer] = (n + 1, n_right + grade.correct)
    classes = [*grader.choices, NONE]
    confusion = None
    if grader.params.mode == "choice":
        place = {name: number for number, name in enumerate(classes)}
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        for grade in grades:
            confusion[place[grade.right_answer], place[grade.read_as or NONE]] += 1
    return Grades(len(grades), sum(grade.correct for grade in grades), per_class, classes, confusion)
