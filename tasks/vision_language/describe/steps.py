"""The Prefect task that asks a model about many images."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.runtime import flow_run

from gpu_pools.slots.slot_meter import batch_done
from gpu_pools.stopping import look
from tasks.base.errors import DatasetError
from tasks.base.workspace import allowed_path, copy_whole, storage_errors
from tasks.images.params import PrepareParams
from tasks.run import mlflow_run, step_context
from tasks.run.display import bars
from tasks.run.prefect_page import Page, show_link, show_markdown
from tasks.run.run_log import Logger
from tasks.run.step_context import step_dir
from tasks.vision_language.describe.params import (
    AnswerGradeParams,
    AnswersTrackParams,
    AskParams,
    CompareParams,
    ReadParams,
)
from tasks.vision_language.describe.resume_point import STAGE
from tasks.vision_language.model_folder import check_extra, check_model_folder
from tasks.vision_language.steps import check_kind

if TYPE_CHECKING:
    import torch

    from tasks.tracking.tracker import Tracker
    from tasks.vision_language.describe.answer_log import AnswerLog
    from tasks.vision_language.describe.asking import Talk
    from tasks.vision_language.describe.plan import Plan
    from tasks.vision_language.describe.questions import Question
    from tasks.vision_language.describe.report import Pace, Report

_FREE = {"ask.device", "ask.batch_size", "ask.n_workers", "questions"}


def name_description() -> str:
    """Return the name of a run: the one in the parameters, else the run's own, else those of model and data."""
    values = flow_run.parameters
    return step_context.name_asked_for() or f"{values['ask'].model.name}-{Path(values['data']).stem}"


def check_request(
    data: Path,
    ask: AskParams,
    read: ReadParams,
    grade: AnswerGradeParams,
    compare: CompareParams,
    track: AnswersTrackParams,
) -> None:
    """Say what is wrong with a request before anything waits or is loaded for it.

    Raises:
        DatasetError: the data hold no question.
        WeightsError: the folder holds no model that can be asked.
        ConfigError: a package is missing, or the parameters do not fit the data, or each other.
        TrackingError: MLflow does not say what a classifier answered.
    """
    check_extra()
    folder, kind = check_model_folder(ask.model)
    check_kind(kind, folder)
    if track.save_path is not None:
        allowed_path(track.save_path)
    from tasks.vision_language.describe.plan import make_plan

    make_plan(data, ask, read, grade, compare)


@task(task_run_name="describe")
def describe(
    data: Path,
    ask: AskParams,
    read: ReadParams,
    prepare: PrepareParams,
    grade: AnswerGradeParams,
    compare: CompareParams,
    track: AnswersTrackParams,
) -> str | None:
    """Ask a question about every image, row or clip of the data; return the id of the MLflow run, if it has one.

    Raises:
        DatasetError: no question could be asked; the table names each with its reason then.
        WeightsError, ConfigError, StorageError, TrackingError: as their names say.
    """
    from tasks.vision_language.describe.plan import make_plan

    folder, plan = check_model_folder(ask.model)[0], make_plan(data, ask, read, grade, compare)
    sections = {"ask": ask, "read": read, "prepare": prepare, "grade": grade, "compare": compare}
    recorded: dict[str, Any] = {name: section.model_dump(mode="json") for name, section in sections.items()}
    recorded |= {"data": str(data), "questions": len(plan.questions)}
    if isinstance(ask.json_schema, dict):  # one parameter: its names are not all such as MLflow takes
        recorded["ask"]["json_schema"] = json.dumps(ask.json_schema)
    where = step_dir(None, STAGE), recorded, ask.device, track.experiment, name_description()
    with mlflow_run.open_mlflow_run(*where, free=_FREE, last=True) as (tracker, device, log):
        show_link("mlflow-run", tracker.url, "Tables, figures and metrics in MLflow")
        _Run(plan, folder, ask, prepare, track, tracker, device, log).work()
    return tracker.known_id


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run works on, and where it tells of it."""

    plan: "Plan"
    model: Path  # its folder
    ask: AskParams
    prepare: PrepareParams
    track: AnswersTrackParams
    tracker: "Tracker"
    device: "torch.device"
    log: Logger

    def work(self) -> None:
        """Ask what is not answered yet, and put the result where people look for it."""
        from tasks.vision_language.describe.answer_log import AnswerLog
        from tasks.vision_language.describe.report import Pace

        about: dict[str, Any] = {"model": self.model.name, "model_folder": str(self.model), "device": str(self.device)}
        about |= {"prompt": self.ask.prompt, "max_tokens": self.ask.max_tokens}
        questions, pace = self.plan.questions, Pace(0, 0, 0, 0.0)
        with AnswerLog(step_dir(None, STAGE)) as kept:
            todo = [question for question in questions if question.key not in kept.answers]
            if len(todo) < len(questions):
                self.log.info("%d of %d questions are answered already", len(questions) - len(todo), len(questions))
            if todo:
                pace, used = self._ask(todo, kept)
                about |= used
            report = self.plan.report(kept.answers, pace)
        self._hand_on(report, about)
        if report.n_failed == len(report.rows):
            raise DatasetError(f"none of {report.n_failed} question(s) could be asked: {report.errors[0]}")

    def _ask(self, todo: "Sequence[Question]", kept: "AnswerLog") -> tuple["Pace", dict[str, Any]]:
        """Ask, each answer going to the disk as it comes; return how fast, and how many at once in which format.

        Raises:
            Interrupted: a signal has come.
        """
        from tasks.base.memory import keep_freed_memory
        from tasks.vision_language.describe.asking import asking
        from tasks.vision_language.describe.model import Asker, load_model
        from tasks.vision_language.describe.report import Pace

        keep_freed_memory()
        model, processor, precision = load_model(self.model, self.device, self.ask.precision)
        asker = Asker(model, processor, self.ask.max_tokens, self.ask.batch_size, self.log.info)
        total = len(self.plan.questions)
        done, begun, replied = total - len(todo), time.perf_counter(), Counter[str]()
        with Page("description", "Questions") as page, bars() as shown:
            reporter = step_context.ProgressReporter("question")
            for talks in asking(todo, asker, self.plan.schema, self.prepare, self.ask.n_workers):
                self._keep(talks, kept)
                done += len(talks)
                for talk in talks:
                    if talk.replies:
                        replied.update(questions=1, images=len(talk.asked.images), tokens=talk.answer.n_new)
                batch_done()
                page.progress(done / total)
                shown.move("questions", done, total)
                reporter.report(done, total)
                look()
        seconds = time.perf_counter() - begun
        pace = Pace(replied["questions"], replied["images"], replied["tokens"], seconds)
        return pace, {"precision": precision, "batch_size": asker.size}

    def _keep(self, talks: "Sequence[Talk]", kept: "AnswerLog") -> None:
        """Keep answers; the traces first, because what has its answer is not asked, nor shown, again."""
        from tasks.vision_language.describe.shown_talk import chosen, trace_of

        shown = chosen(len(self.plan.questions), self.track.traces)
        for talk in talks:
            if talk.replies and talk.asked.question.number in shown:
                grade = self.plan.grade(talk.asked.question, talk.answer)
                self.tracker.trace(trace_of(talk, grade, self.model.name, self.ask.max_tokens))
        kept.add([talk.answer for talk in talks])

    def _hand_on(self, report: "Report", about: dict[str, Any]) -> None:
        """Put the result where people look for it: the run's folder, MLflow, Prefect, and the folder they named."""
        from tasks.vision_language.describe.report import markdown, write_report
        from tasks.vision_language.describe.tables import write_tables

        target, tracker = step_dir(None, STAGE), self.tracker
        names = write_tables(report.rows, target)
        names += write_report(report, about, self.plan.questions, self.prepare, name_description(), target)
        for name in names:
            tracker.artifact(target / name, STAGE)
        tracker.metrics(report.metrics(), 0)
        for name in ("model", "prompt", "precision"):
            if name in about:
                tracker.tag(f"description.{name}", str(about[name]))
        text = markdown(report, about, tracker.url) + mlflow_run.slot_line(tracker)
        tracker.tag("mlflow.note.content", text)
        show_markdown("summary", text, "What was answered, and where the tables are")
        for error in report.errors:
            self.log.warning("%s", error)
        self.log.info("%d questions, %d without an answer, %d that do not fit the schema", *report.counts)
        if self.track.save_path is not None:
            copy_out(target, names, self.track.save_path)
        self.log.info("MLflow: %s", tracker.url)


def copy_out(folder: Path, names: Sequence[str], target: Path) -> None:
    """Copy the result to the folder a person named, each file whole or not at all."""
    target = allowed_path(target)
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            copy_whole(folder / name, target / name)
