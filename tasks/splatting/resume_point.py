"""Tells from its files where an interrupted splat goes on; imports nothing heavy."""

from pathlib import Path

from tasks.base.workspace import MADE_WITH
from tasks.run.resume_point import training_resume_point

CHECKPOINT = "splat.ckpt"
FRAMES, POSES, TRAINING = "frames", "poses", "training"
SCENE = f"{POSES}/undistorted"
FRAMES_TABLE = "frames.csv"


def resume_point(folder: Path) -> str | None:
    """Return from what a run goes on, None where no work of a splat is left.

    Args:
        folder: of the run.
    """
    if found := training_resume_point(folder / TRAINING, CHECKPOINT):
        return found
    if (folder / SCENE / MADE_WITH).is_file():
        return "its cameras"
    return "its images" if (folder / FRAMES / FRAMES_TABLE).is_file() else None
