"""Says what people call a rendered data set: as the folder of its meshes."""

from pathlib import Path

from tasks.base.workspace import read_step_info


def name_of(dataset: Path) -> str:
    """Return the name of the folder that a data set was rendered from; its own where nobody wrote that down."""
    return Path(str(read_step_info(dataset).get("data", dataset))).name
