"""From where a splat that was cut off goes on, by the files it left; `yard` asks: imports nothing heavy."""

from pathlib import Path

from tasks.base.workspace import MADE_WITH, written_at

CHECKPOINT, FINISHED = "splat.ckpt", "finished.json"
FRAMES, POSES, TRAINING = "frames", "poses", "training"
SCENE = f"{POSES}/undistorted"
FRAMES_TABLE = "frames.csv"


def goes_on_from(folder: Path) -> str | None:
    """Return from what a run goes on, None where no work of a splat is left.

    Args:
        folder: of the run.
    """
    training = folder / TRAINING
    if (training / FINISHED).is_file():
        return "its finished training"
    if (training / CHECKPOINT).is_file():
        return f"its checkpoint of {written_at(training / CHECKPOINT)}"
    if (folder / SCENE / MADE_WITH).is_file():
        return "its cameras"
    return "its pictures" if (folder / FRAMES / FRAMES_TABLE).is_file() else None
