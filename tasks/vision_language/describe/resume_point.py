"""Tells from its files where an interrupted run of questions goes on; imports nothing heavy."""

from pathlib import Path

STAGE = "description"
"""Folder of the stage, below that of the run."""
LOG = "asked.jsonl"
"""In it: a line for each question that is answered."""


def resume_point(folder: Path) -> str | None:
    """Return from what a run goes on, None where it has answered no question.

    Args:
        folder: of the run.
    """
    path = folder / STAGE / LOG
    if not path.is_file():
        return None
    with path.open("rb") as file:
        n = sum(line.endswith(b"\n") for line in file)
    return f"its {n} answer(s)" if n else None
