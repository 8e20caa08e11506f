"""Tells from its files where an interrupted recognition goes on; imports nothing heavy."""

from pathlib import Path

from tasks.base.workspace import MADE_WITH
from tasks.run.resume_point import training_resume_point

CHECKPOINT = "checkpoint.pt"
RENDERED, DETECTOR, INDEX = "rendered", "detector", "index"
"""Folders of a run: the rendered data set, and what was trained on it."""


def resume_point(folder: Path) -> str | None:
    """Return from what a run goes on, None where no work of a recognition is left.

    Args:
        folder: of the run.
    """
    for method in (INDEX, DETECTOR):  # trained in the other order
        if found := training_resume_point(folder / method, CHECKPOINT):
            return f"{found} ({method})"
    return "its rendered images" if (folder / RENDERED / MADE_WITH).is_file() else None
