"""The events that the preparation of a scene yields."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a stage is."""

    stage: str  # "frames", "features", "matches", "poses" or "undistort"
    done: int
    total: int
