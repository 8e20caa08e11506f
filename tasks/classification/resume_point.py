"""Tells from its files where an interrupted classification goes on; imports nothing heavy."""

from pathlib import Path

from tasks.base.workspace import MADE_WITH
from tasks.run.resume_point import training_resume_point

CHECKPOINT = "checkpoint.pt"
SPLIT, AUGMENTED, TRAINING = "split", "augmented", "training"


def resume_point(folder: Path) -> str | None:
    """Return from what a run goes on, None where no work of a classification is left.

    Args:
        folder: of the run.
    """
    if found := training_resume_point(folder / TRAINING, CHECKPOINT):
        return found
    steps = {AUGMENTED: "its augmented images", SPLIT: "its split data"}
    return next((name for step, name in steps.items() if (folder / step / MADE_WITH).is_file()), None)
