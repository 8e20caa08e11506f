"""Parameters of the report on who had which device."""

from typing import Annotated

from pydantic import Field

from tasks.base.params import Params


class ReportParams(Params):
    """Of which time the report is."""

    since: Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smhd]$", description="So long ago up to now: 24h, 7d")] = "24h"
