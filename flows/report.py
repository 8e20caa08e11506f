"""The report on who had which device, daily."""

from pathlib import Path

from prefect import flow

from gpu_pools.slots.local_slot import on_device
from tasks.accounts import steps
from tasks.accounts.params import ReportParams


@flow(name="report", flow_run_name="report")
def report(report: ReportParams = ReportParams()) -> Path:
    """Say who had which device for how long: a table of owners, a picture of the devices over time, and the sheets.

    Args:
        report: of which time.

    Returns:
        The folder with the files.
    """
    with on_device("cpu", "housekeeping"):
        return steps.report_occupation(report)
