"""Parameters of the inference pipeline, under the names users know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tasks.base.params import Device, MaybePath, MaybeText, NoneText, Owner, Params
from tasks.classification.params import Architecture, _class_names, _size


class PredictParams(Params):
    """Which model answers, on what device."""

    weights: Annotated[
        str,
        Field(
            min_length=1,
            description="models:/NAME@champion, models:/NAME/3, runs:/ID, or a file of weights: ours with its "
            "config.json beside it, or RFUAV's with model and class_names given",
        ),
    ] = "models:/classification@champion"
    model: Annotated[Architecture | None, NoneText, Field(description="Of a file of weights without a config.json")] = (
        None
    )
    class_names: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_class_names),
        Field(description="The classes in the order of the head: a list, or a map of names to numbers"),
    ] = None
    num_classes: Annotated[
        Annotated[int, Field(ge=2)] | None, NoneText, Field(description="Checked against the classes and the head")
    ] = None
    image_size: Annotated[
        Annotated[int, BeforeValidator(_size), Field(ge=32)] | None,
        NoneText,
        Field(description="Pixels on a side; empty: as in the model's configuration, else 224"),
    ] = None
    device: Device = "cuda"
    batch_size: Annotated[int, Field(ge=1, description="Halved by itself where the device's memory asks for it")] = 32
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], Field(description="auto: the fastest the device does well")
    ] = "auto"
    every_n: Annotated[int, Field(ge=1, description="Of a video, every n-th image")] = 10
    n_workers: Annotated[int, Field(ge=0, description="Threads that prepare images; 0: as many as cores")] = 0
    save_path: Annotated[MaybePath, Field(description="A folder that gets a copy of the tables and images")] = None
    task_id: Annotated[MaybeText, Field(description="The caller's own name for the run")] = None
    description: Annotated[MaybeText, Field(description="Free text, kept with the run")] = None


def _address(value: object) -> object:
    """Take a path for the address it is."""
    return str(value) if isinstance(value, Path) else value


class DetectParams(Params):
    """A detector that proposes regions first; without weights the model sees whole images."""

    weights: Annotated[
        str | None,
        BeforeValidator(_address),
        NoneText,
        Field(
            description="A detector of parts: models:/NAME@champion, models:/NAME/3, runs:/ID or its file of weights; "
            "or a state dict of torchvision's ssdlite320_mobilenet_v3_large"
        ),
    ] = None
    min_score: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        NoneText,
        Field(
            description="Regions below are left out; empty: as a detector of parts measured it in its training, 0.3 "
            "for another detector"
        ),
    ] = None
    max_regions: Annotated[int, Field(ge=1, le=300, description="Of an image, the best ones")] = 20
    config: Annotated[
        MaybePath,
        Field(description="RFUAV's two-stage JSON: detector and classifier, instead of weights here and in predict"),
    ] = None


class PredictTrackParams(Params):
    """Under which names the run is found again."""

    experiment: Annotated[str, Field(pattern=r"^[^/:']+$", description="MLflow experiment")] = "predictions"
    run_name: Annotated[MaybeText, Field(description="Empty: model and data")] = None
    owner: Owner = ""


def one_or_many(value: object) -> object:
    """Take one source for a list of one."""
    return [value] if isinstance(value, (str, Path)) else value


Sources = Annotated[list[Path], BeforeValidator(one_or_many), Field(min_length=1)]

_FROM_TRAIN = {"weight_path": "weights"} | {
    name: name
    for name in (
        *("model", "class_names", "num_classes", "image_size", "device", "batch_size"),
        *("save_path", "task_id", "description"),
    )
}
_NOTHING = {None, "", "none", "null"}


def from_training(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in which what a configuration for training says of the model stands where inference has it.

    RFUAV's files serve both; training paths, epochs and optimiser mean nothing here and are left out. What the
    section `predict` says itself wins.

    Args:
        parameters: nested, as `tasks.base.config.read_parameters` gives them.
    """
    given = dict(parameters)
    train = given.pop("train", None)
    for old, new in (("source_path", "data"), ("cfg_path", None), ("priority", None)):
        value = given.pop(old, None)
        if new is not None and value is not None:
            given.setdefault(new, value)
    if isinstance(train, Mapping):
        taken = {_FROM_TRAIN[name]: value for name, value in train.items() if name in _FROM_TRAIN}
        known = {name: value for name, value in taken.items() if not _is_nothing(value)}
        given["predict"] = {**known, **given.get("predict", {})}
    return given


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)
