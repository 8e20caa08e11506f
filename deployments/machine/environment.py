"""Environment variables for Prefect and MLflow, set before either is imported."""

import os
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from tasks.base.errors import StorageError
from tasks.base.home import make_home
from tasks.base.workspace import home


def prepare_environment() -> None:
    """Point Prefect and MLflow at TRAINYARD_HOME; must come before either is imported. What is set already stays."""
    state = home()
    settings = {
        "TRAINYARD_HOME": str(state),
        "PREFECT_HOME": str(state / "prefect"),
        # Both call home otherwise, and a lab without a network waits for the time-out.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",  # its notes on database tables would stand between the lines of a run
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        # A run without a server prints links all the same: `yard up` shows them.
        "PREFECT_UI_URL": "http://127.0.0.1:4200",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # The services are on this machine: a lab's proxy would be asked for them, and cannot reach them.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))


def make_prefect_home() -> None:
    """Make the folder that Prefect looks for when it is imported; where it cannot be, Prefect says so itself."""
    if folder := os.environ.get("PREFECT_HOME"):
        with suppress(OSError, StorageError):
            make_home()
            Path(folder).mkdir(parents=True, exist_ok=True)


def version() -> str:
    """Return the version that is installed."""
    return metadata.version("trainyard")
