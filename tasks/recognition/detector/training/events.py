"""The events that the training of a detector yields."""

from dataclasses import dataclass

from tasks.base.progress import Note, Progress
from tasks.training.events import BatchDone, EpochBasics, EpochDone


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics(EpochBasics):
    """What an epoch came to, validated on scenes that are not trained on."""

    losses: dict[str, float]  # mean per image, each part of what is minimised; their sum is the loss
    map50: float  # mean average precision at IoU 0.5, in [0, 1]
    map: float  # its mean over IoU 0.5 to 0.95, in [0, 1]
    per_class: dict[str, float]  # average precision over IoU 0.5 to 0.95, of the parts on the scenes
    best_map: float  # highest `map` so far


Event = Note | Progress | BatchDone | EpochDone[EpochMetrics]
