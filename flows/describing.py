"""A question to a vision-language model over many images, with a table of answers."""

from pathlib import Path

from prefect import flow

from gpu_pools.slots.local_slot import on_device
from tasks.images.params import PrepareParams
from tasks.vision_language.describe import steps
from tasks.vision_language.describe.params import (
    AnswerGradeParams,
    AnswersTrackParams,
    AskParams,
    CompareParams,
    ReadParams,
)


@flow(name="describe", flow_run_name=steps.name_description)
def describe(
    data: Path,
    ask: AskParams,
    read: ReadParams = ReadParams(),
    prepare: PrepareParams = PrepareParams(),
    grade: AnswerGradeParams = AnswerGradeParams(),
    compare: CompareParams = CompareParams(),
    track: AnswersTrackParams = AnswersTrackParams(),
) -> str | None:
    """Ask a vision-language model a question about every image of a folder, row of a table, or clip of a video.

    Args:
        data: an image, a folder (all images below it), a video, or a table (CSV, or JSON on each line) with a column
            that names images.
        ask: what is asked, by which model, on what device.
        read: how a table or a video becomes questions.
        prepare: how large an image may be.
        grade: where right answers are, and how answers are held against them.
        compare: a classifier's answers to the same images.
        track: under which names it is found in MLflow.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    steps.check_request(data, ask, read, grade, compare, track)
    with on_device(ask.device, "inference"):
        return steps.describe(data, ask, read, prepare, grade, compare, track)
