"""Decides, before a model is loaded, what is asked, what answers must fit, and how they are graded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.base.errors import ConfigError
from tasks.vision_language.describe.answer_log import Answer
from tasks.vision_language.describe.answer_schema import AnswerSchema
from tasks.vision_language.describe.classifier_table import read_classifier, side_by_side
from tasks.vision_language.describe.grading import Grade, Grader, summed
from tasks.vision_language.describe.params import AnswerGradeParams, AskParams, CompareParams, ReadParams
from tasks.vision_language.describe.questions import Question, find_questions
from tasks.vision_language.describe.report import Pace, Report
from tasks.vision_language.describe.tables import row_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do."""

    questions: Sequence[Question]
    schema: AnswerSchema | None  # None: answers are free text
    grader: Grader | None  # None: there are no right answers
    classes: Mapping[str, str] | None  # what a classifier answered, by the keys of the questions

    def grade(self, question: Question, answer: Answer) -> Grade | None:
        """Return the grade of an answer; None where it is not graded."""
        return None if self.grader is None else self.grader(question, answer)

    def report(self, answers: Mapping[str, Answer], pace: Pace) -> Report:
        """Return what came of it all.

        Args:
            answers: to all questions, by their keys.
            pace: of asking.
        """
        grades = {q.key: grade for q in self.questions if (grade := self.grade(q, answers[q.key])) is not None}
        classes = self.classes or {}
        rows = [
            row_of(q, answers[q.key], grades.get(q.key), classes.get(q.key), schema=self.schema is not None)
            for q in self.questions
        ]
        graded = [grades[q.key] for q in self.questions if q.key in grades]
        return Report(
            rows,
            pace,
            None if self.grader is None else summed(graded, self.grader),
            None if self.classes is None else side_by_side(grades, self.classes),
        )


def make_plan(data: Path, ask: AskParams, read: ReadParams, grade: AnswerGradeParams, compare: CompareParams) -> Plan:
    """Return what is to be done.

    Args:
        data: an image, a folder, a table or a video.
        ask, read, grade, compare: as the run has them.

    Raises:
        DatasetError: the data hold no question.
        ConfigError: the parameters do not fit the data, or each other.
        TrackingError: MLflow does not say what a classifier answered.
    """
    schema = None if ask.json_schema is None else AnswerSchema(ask.json_schema)
    questions = find_questions(data, ask.prompt, read, grade)
    grader = None
    if grade.column is not None or grade.by_folder:
        grader = Grader(grade, questions, with_schema=schema is not None)
    return Plan(questions, schema, grader, _classes(compare, questions, graded=grader is not None))


def _classes(compare: CompareParams, questions: Sequence[Question], *, graded: bool) -> dict[str, str] | None:
    if compare.run is None and compare.table is None:
        return None
    if compare.run is not None and compare.table is not None:
        raise ConfigError("found both compare.run and compare.table, need one of them")
    if not graded:
        raise ConfigError("found something to compare with and no right answers: need grade.by_folder or grade.column")
    return read_classifier(compare, questions)
