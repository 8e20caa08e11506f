"""From where a classification that was cut off goes on, by the files it left; `yard` asks: imports nothing heavy."""

from pathlib import Path

from tasks.base.workspace import MADE_WITH, written_at

CHECKPOINT, FINISHED = "checkpoint.pt", "finished.json"
SPLIT, AUGMENTED, TRAINING = "split", "augmented", "training"


def goes_on_from(folder: Path) -> str | None:
    """Return from what a run goes on, None where no work of a classification is left.

    Args:
        folder: of the run.
    """
    training = folder / TRAINING
    if (training / FINISHED).is_file():
        return "its finished training"
    if (training / CHECKPOINT).is_file():
        return f"its checkpoint of {written_at(training / CHECKPOINT)}"
    stages = {AUGMENTED: "its augmented pictures", SPLIT: "its split data"}
    return next((name for stage, name in stages.items() if (folder / stage / MADE_WITH).is_file()), None)
