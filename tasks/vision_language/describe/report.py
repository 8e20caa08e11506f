"""Sums all answers up: figures, a page of text, a gallery, and a confusion matrix."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.base.workspace import write_json
from tasks.images.figures import confusion_matrix_figure, gallery_figure, save
from tasks.images.params import PrepareParams
from tasks.vision_language.describe.classifier_table import SideBySide
from tasks.vision_language.describe.grading import NONE, Grades
from tasks.vision_language.describe.loading import loaded
from tasks.vision_language.describe.questions import Question
from tasks.vision_language.describe.shown_talk import chosen
from tasks.vision_language.describe.tables import Row

GALLERY, CONFUSION, REPORT = "gallery.png", "confusion_matrix.png", "description.json"
_SHOWN = 24
_ERRORS = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast questions were answered, by the attempt that ended the run; 0 questions: all were answered before."""

    n_questions: int
    n_images: int
    n_tokens: int  # new ones
    seconds: float  # from the first image read to the last answer kept

    @property
    def images_per_second(self) -> float | None:
        """Return images a second, None where nothing was asked."""
        return self.n_images / self.seconds if self.n_questions else None

    @property
    def tokens_per_second(self) -> float | None:
        """Return new tokens a second, None where nothing was asked."""
        return self.n_tokens / self.seconds if self.n_questions else None


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    rows: Sequence[Row]
    pace: Pace
    grades: Grades | None
    compared: SideBySide | None

    @property
    def n_answered(self) -> int:
        """Return how many questions have an answer, whether it fits a schema or not."""
        return sum(row["text"] is not None for row in self.rows)

    @property
    def n_invalid(self) -> int:
        """Return how many answers do not fit the schema, though asked again."""
        return sum(row["valid"] is False for row in self.rows)

    @property
    def n_failed(self) -> int:
        """Return how many questions have no answer."""
        return len(self.rows) - self.n_answered

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return how many questions there are, have no answer, and have one that does not fit the schema."""
        return len(self.rows), self.n_failed, self.n_invalid

    @property
    def n_cut_off(self) -> int:
        """Return how many answers are longer than they may be."""
        return sum(row["finish_reason"] == "length" for row in self.rows)

    @property
    def share_valid(self) -> float | None:
        """Return the share of answers that fit the schema; None: there is none, or no answer."""
        n = sum(row["valid"] is not None for row in self.rows)
        return 1 - self.n_invalid / n if n else None

    @property
    def errors(self) -> list[str]:
        """Return the first errors, with the rows they are of."""
        found = [f"row {row['row']}: {row['error']}" for row in self.rows if row["error"]]
        return found[:_ERRORS]

    def metrics(self) -> dict[str, float | None]:
        """Return the figures for MLflow; None is what there is not."""
        compared = self.compared
        return {
            "questions/all": len(self.rows),
            "questions/answered": self.n_answered,
            "questions/failed": self.n_failed,
            "questions/cut_off": self.n_cut_off,
            "questions/images_per_second": self.pace.images_per_second,
            "questions/tokens_per_second": self.pace.tokens_per_second,
            "tokens/prompt": sum(row["prompt_tokens"] or 0 for row in self.rows),
            "tokens/completion": sum(row["completion_tokens"] or 0 for row in self.rows),
            "answers/valid": self.share_valid,
            "answers/accuracy": None if self.grades is None else self.grades.accuracy,
            "compared/images": None if compared is None else compared.n,
            "compared/accuracy": None if compared is None else compared.n_right / max(1, compared.n),
            "compared/classifier_accuracy": None
            if compared is None
            else compared.n_classifier_right / max(1, compared.n),
        }

    def as_json(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return all figures, and what they are of, for description.json."""
        grades, compared = self.grades, self.compared
        return {
            **about,
            **self.metrics(),
            "errors": self.errors,
            "per_class": None
            if grades is None
            else {n: {"answers": a, "right": b} for n, (a, b) in grades.per_class.items()},
            "confusion": None
            if grades is None or grades.confusion is None
            else {"classes": grades.classes, "counts": grades.confusion.tolist()},
            "compared_per_class": None
            if compared is None
            else {
                name: dict(zip(("images", "right", "classifier_right"), row, strict=True))
                for name, row in compared.per_class.items()
            },
        }


def markdown(report: Report, about: Mapping[str, Any], url: str) -> str:
    """Return the summary for the pages of Prefect and MLflow."""
    pace = report.pace
    lines = [f"# {report.n_answered} of {len(report.rows)} questions answered by {about['model']}", ""]
    if pace.n_questions:
        lines += [
            f"{pace.images_per_second:.2f} images and {pace.tokens_per_second:.1f} tokens a second on "
            f"{about['device']} in {about['precision']}, {about['batch_size']} question(s) at once.",
            "",
        ]
    lines += ["> " + line for line in str(about["prompt"]).splitlines()] + [""]
    if report.share_valid is not None:
        lines += [f"{report.n_invalid} answer(s) do not fit the schema, {report.share_valid:.1%} do.", ""]
    if report.n_cut_off:
        lines += [f"{report.n_cut_off} answer(s) are cut off at {about['max_tokens']} tokens (`ask.max_tokens`).", ""]
    if report.grades is not None:
        lines += [*_graded(report.grades, report.compared), ""]
    if report.errors:
        lines += [
            f"Not answered: {report.n_failed}, not fitting: {report.n_invalid}",
            "",
            *(f"- {text}" for text in report.errors),
            "",
        ]
    return "\n".join([*lines, f"Tables, images and traces: {url}", ""])


def _graded(grades: Grades, compared: SideBySide | None) -> list[str]:
    said = [f"**{grades.n_right} of {grades.n} right, {grades.accuracy:.1%}.**"]
    if grades.confusion is not None and (n_none := int(grades.confusion[:, -1].sum())):
        said.append(f"In {n_none} no choice was found, or several.")
    if compared is None:
        rows = [f"| {name} | {n} | {n_right / n:.1%} |" for name, (n, n_right) in grades.per_class.items()]
        return [" ".join(said), "", "| right answer | answers | right |", "|---|---|---|", *rows]
    n = max(1, compared.n)
    rows = [
        f"| {name} | {n_images} | {model / n_images:.1%} | {classifier / n_images:.1%} |"
        for name, (n_images, model, classifier) in compared.per_class.items()
    ]
    rows.append(f"| **all** | {compared.n} | {compared.n_right / n:.1%} | {compared.n_classifier_right / n:.1%} |")
    only = compared.n_right - compared.n_both, compared.n_classifier_right - compared.n_both
    both = f"Both right: {compared.n_both}; only this model: {only[0]}; only the classifier: {only[1]}."
    return [
        " ".join(said),
        "",
        "| right answer | images | this model | classifier |",
        "|---|---|---|---|",
        *rows,
        "",
        both,
    ]


def write_report(
    report: Report,
    about: Mapping[str, Any],
    questions: Sequence[Question],
    prepare: PrepareParams,
    title: str,
    folder: Path,
) -> list[str]:
    """Write description.json and the figures; return their names.

    Args:
        report: what the run came to.
        about: what it is of.
        questions: as the rows.
        prepare: the bounds of every image.
        title: of the gallery.
        folder: exists.
    """
    write_json(folder / REPORT, report.as_json(about))
    names = [REPORT, GALLERY]
    _write_gallery(report.rows, questions, prepare, title, folder / GALLERY)
    if report.grades is not None and report.grades.confusion is not None:
        _write_confusion(report.grades, folder / CONFUSION)
        names.append(CONFUSION)
    return names


def _write_gallery(
    rows: Sequence[Row], questions: Sequence[Question], prepare: PrepareParams, title: str, path: Path
) -> None:
    answered = [number for number, row in enumerate(rows) if row["text"] is not None]
    places = [answered[place] for place in sorted(chosen(len(answered), _SHOWN))]
    found = list(loaded([questions[place] for place in places], prepare))
    shown = [(one.images[0], _caption(rows[place])) for one, place in zip(found, places, strict=True) if one.images]
    save(gallery_figure([image for image, _ in shown], [caption for _, caption in shown], title=title), path)


def _caption(row: Row) -> str:
    text = "".join(sign if sign.isprintable() else " " for sign in row["text"])
    lines = textwrap.wrap(text, 28, max_lines=2, placeholder=" ...") or ["(nothing)"]
    if row["correct"] is not None:
        lines.append("right" if row["correct"] else f"not {row['right_answer']}")
    return "\n".join(lines)


def _write_confusion(grades: Grades, path: Path) -> None:
    assert grades.confusion is not None, "of mode choice"
    n_none = int(grades.confusion[:, -1].sum())
    names = grades.classes if n_none else [name for name in grades.classes if name != NONE]
    save(confusion_matrix_figure(grades.confusion[: len(names), : len(names)], names), path)
