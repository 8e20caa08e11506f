"""Parameters of a trial."""

from typing import Annotated

from pydantic import Field

from tasks.base.params import Params


class TrialParams(Params):
    """Which device is tried."""

    device: Annotated[
        str, Field(description="cuda: the least loaded GPU; cuda:1: this one; cpu; HOST/cuda:1: on that host")
    ] = "cuda"
