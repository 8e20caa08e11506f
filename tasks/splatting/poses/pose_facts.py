"""The facts about poses that COLMAP's process hands over and reports show."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images whose features were matched and agree with one geometry."""

    first: str  # names
    second: str
    inliers: int
    turned_only: bool  # as if the camera turned on the spot, or saw one plane


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One of the models that the images fall into."""

    number: int  # its folder
    names: tuple[str, ...]  # of the images in it
    points: int
    reprojection_error_px: float  # mean, pixels of the images given
    track_length: float  # images a point is seen in, mean


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known before images are undistorted."""

    n_features: Mapping[str, int]  # by image
    pairs: tuple[Pair, ...]
    models: tuple[ModelFacts, ...]  # the one with the most images first

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def facts_from(row: Mapping[str, Any]) -> Facts:
    """Return the facts that `as_json` turned into plain values."""
    models = tuple(ModelFacts(**{**model, "names": tuple(model["names"])}) for model in row["models"])
    return Facts(row["n_features"], tuple(Pair(**pair) for pair in row["pairs"]), models)


@dataclass(frozen=True, slots=True)
class PoseReport:
    """How well the cameras were found."""

    scene: Path  # folder of the undistorted images and their model
    registered: int  # images with a pose
    total: int
    reprojection_error_px: float | None  # mean; None: the source did not say
    track_length: float | None  # images a point is seen in, mean
    points: int
    missing: tuple[str, ...]  # images without a pose
    n_models: int

    @property
    def share(self) -> float:
        """Return the share of images with a pose."""
        return self.registered / self.total
