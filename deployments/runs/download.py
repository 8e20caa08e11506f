"""Downloads the files of a run from MLflow into a folder."""

from collections.abc import Sequence
from pathlib import Path

from deployments.runs.run_actions import tracked_runs
from tasks.base.errors import ConfigError
from tasks.base.workspace import home, staged, storage_errors


def download(run_id: str, target: Path) -> Sequence[Path]:
    """Copy all that MLflow holds for a run below `target`, and return the files; they come whole or not at all.

    Args:
        run_id: of Prefect, in full.
        target: made; must be missing or empty.

    Raises:
        ConfigError: there is something in `target`, or the run left nothing in MLflow.
        StorageError: `target` cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"found something in {target}, need a folder that is missing or empty")
    folder = home() / "runs" / run_id
    files = folder / "files"  # of a stage: the folder of its pipeline
    tracked = tracked_runs([files if files.exists() else folder])
    if not tracked:
        raise ConfigError(f"run {run_id} has nothing in MLflow; what it left is in {folder}")
    from tasks.tracking.mlflow_api import client

    with storage_errors(target), staged(target) as tmp:
        for number, mlflow_run in enumerate(tracked):
            part = tmp if len(tracked) == 1 else tmp / str(number)
            part.mkdir(exist_ok=True)
            client().download_artifacts(mlflow_run, "", str(part))
    return sorted(path for path in target.rglob("*") if path.is_file())


def run_named(name: str) -> str | None:
    """Return the id of the only run of this home whose folder begins with `name`; None: none, or several."""
    found = [path.name for path in (home() / "runs").glob(f"{name}*") if path.is_dir()] if name.isascii() else []
    return found[0] if len(found) == 1 and all(c in "0123456789abcdef-" for c in name) else None
