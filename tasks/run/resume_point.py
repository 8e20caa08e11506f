"""Tells from its files where an interrupted training goes on, for all trainings; imports nothing heavy."""

from pathlib import Path

from tasks.base.workspace import written_at

FINISHED = "finished.json"
"""The last file that a training writes: with it the folder is whole."""


def training_resume_point(training: Path, checkpoint: str) -> str | None:
    """Return from what a training goes on, None where it has left nothing.

    Args:
        training: its folder.
        checkpoint: name of its checkpoint.
    """
    if (training / FINISHED).is_file():
        return "its finished training"
    path = training / checkpoint
    return f"its checkpoint of {written_at(path)}" if path.is_file() else None
