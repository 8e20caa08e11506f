"""Parameters of housekeeping: how long, or up to which size, each kind of thing is kept."""

from typing import Annotated

from pydantic import Field

from tasks.base.params import NoneText, Params

Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smhd]$", description="90s, 30m, 12h or 90d")]
MaybeDuration = Annotated[Duration | None, NoneText]
Size = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(kB|MB|GB|TB)$", description="500MB, 50GB or 2TB")]


class KeepParams(Params):
    """What is kept how long; an empty value: for good."""

    uploads: Annotated[
        MaybeDuration,
        Field(description="Data from the inbox, so long after the end of a run that has no keep_files of its own"),
    ] = None
    rejected: Annotated[Duration, Field(description="What the inbox could not make a run of")] = "30d"
    files: Annotated[
        MaybeDuration,
        Field(description="Folders of runs that have no keep_files of their own, so long after their end"),
    ] = None
    checkpoints: Annotated[
        MaybeDuration,
        Field(description="Checkpoints of runs that have ended, so long after that; their best weights stay"),
    ] = "30d"
    sweeps: Annotated[
        MaybeDuration,
        Field(description="Folders of sweeps, so long after their end; their runs and files stay in MLflow"),
    ] = "90d"
    temporary: Annotated[Duration, Field(description="Temporary files that no living process writes")] = "1d"
    cache: Annotated[Size, Field(description="All of the cache; what was not used for longest goes first")] = "50GB"
    dead_runs: Annotated[
        Duration, Field(description="MLflow runs that are left RUNNING, so long after the end of their Prefect run")
    ] = "1h"
    deleted_runs: Annotated[
        MaybeDuration, Field(description="Runs, models and experiments that were deleted in MLflow")
    ] = "30d"
    records: Annotated[
        MaybeDuration, Field(description="Prefect's records of runs, with their logs, after their end")
    ] = "90d"
    service_logs: Annotated[Size, Field(description="The log of each service; a larger one is put aside")] = "20MB"
