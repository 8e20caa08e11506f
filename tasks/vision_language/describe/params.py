"""Parameters of asking a vision-language model about many images."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tasks.base.params import Device, NoneText, Owner, Params


def _absolute(path: Path) -> Path:
    """Keep what a path means where it was given: a run may go on from another folder."""
    return path.expanduser().absolute()


def _names(value: object) -> object:
    return [value] if isinstance(value, str) and value else value or []


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class AskParams(Params):
    """What is asked, by which model, on what device."""

    model: Annotated[
        AbsolutePath, Field(description="A folder with config.json and *.safetensors, as transformers saves it")
    ]
    prompt: Annotated[
        str,
        Field(
            min_length=1,
            description="The question; {column} stands for a value of the table, {name} and {folder} for a file's",
        ),
    ]
    device: Device = "cuda"
    max_tokens: Annotated[int, Field(ge=1, le=100_000, description="New ones, of an answer")] = 256
    json_schema: Annotated[
        dict[str, Any] | AbsolutePath | None,
        NoneText,
        Field(description="A JSON schema that answers must fit, itself or its file; empty: answers are free text"),
    ] = None
    batch_size: Annotated[
        int, Field(ge=0, description="Questions at once; 0: by free memory; halved where memory asks for it")
    ] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], Field(description="auto: bf16 on a GPU that has it, fp32 on the CPU")
    ] = "auto"
    n_workers: Annotated[
        int, Field(ge=0, description="Threads that prepare images; 0: as many as cores, 8 at most")
    ] = 0


class ReadParams(Params):
    """How data become questions."""

    images: Annotated[
        Names,
        Field(description="Columns of a table that name the images; empty: images, image, path or file"),
    ] = ()
    frames: Annotated[int, Field(ge=1, le=1000, description="Of a video, for each question")] = 8
    clip_s: Annotated[
        Annotated[float, Field(gt=0)] | None,
        NoneText,
        Field(description="Seconds of a video for each question; empty: one on all of it"),
    ] = None


class AnswerGradeParams(Params):
    """How answers are held against right ones."""

    column: Annotated[str | None, NoneText, Field(description="Of the table, with the right answers; empty: none")] = (
        None
    )
    by_folder: Annotated[bool, Field(description="The name of an image's folder is the right answer")] = False
    mode: Annotated[
        Literal["choice", "exact", "contains"],
        Field(
            description="choice: the one choice that is found in the answer; exact: the answer, without case and marks "
            "at its ends; contains: the right answer is found in it"
        ),
    ] = "choice"
    choices: Annotated[Names, Field(description="Of mode choice; empty: all right answers there are")] = ()
    field: Annotated[
        str | None, NoneText, Field(description="Of an answer in JSON, what is graded; empty: the whole text")
    ] = None


class CompareParams(Params):
    """A classifier's answers to the same images, which are put beside the model's."""

    run: Annotated[
        str | None, NoneText, Field(description="A run of predict or classification: its id in Prefect or in MLflow")
    ] = None
    table: Annotated[
        AbsolutePath | None, NoneText, Field(description="Instead of a run: a predictions.csv or predictions.parquet")
    ] = None


class AnswersTrackParams(Params):
    """Under which names the run is found again, and what of it MLflow shows."""

    experiment: Annotated[str, Field(pattern=r"^[^/:']+$", description="MLflow experiment")] = "answers"
    run_name: Annotated[str | None, NoneText, Field(description="Empty: model and data")] = None
    traces: Annotated[
        int, Field(ge=0, le=10_000, description="Questions that MLflow's tab Traces shows, spread over all")
    ] = 200
    save_path: Annotated[
        AbsolutePath | None, NoneText, Field(description="A folder that gets a copy of the tables")
    ] = None
    owner: Owner = ""
