"""Parameters of the benchmark over signal-to-noise ratios."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from tasks.base.params import Device, Params
from tasks.classification.params import TrackParams


def _one_or_many(value: object) -> object:
    """Take one model for a list of one."""
    return [value] if isinstance(value, str) else value


class SnrParams(Params):
    """Which models answer, on what device."""

    weights: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(_one_or_many),
        Field(
            min_length=1,
            description="One or several of models:/NAME@champion, models:/NAME/3, runs:/ID, or a file of weights with "
            "its config.json beside it; LABEL=... in front names the curve",
        ),
    ] = ("models:/classification@champion",)
    device: Device = "cuda"
    batch_size: Annotated[int, Field(ge=1, description="Images at once")] = 64


class SnrTrackParams(TrackParams):
    """Under which names the run is found again."""

    experiment: Annotated[str, Field(pattern=r"^[^/:']+$", description="MLflow experiment")] = "snr"
