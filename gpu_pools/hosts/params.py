"""Parameters of a host's share of a run that another host leads."""

from typing import Annotated

from pydantic import Field

from tasks.base.params import Params


class ShareParams(Params):
    """A host's share of a training."""

    run: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$", description="Id of the run that trains")]
    meeting: Annotated[
        str, Field(pattern=r"^[0-9a-f]{32}$", description="Number of the meeting to which this host is called")
    ]
    n_devices: Annotated[int, Field(ge=1, description="GPUs of this host")] = 1
