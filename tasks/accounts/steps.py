"""The Prefect task of the report on who had which device."""

import time
from datetime import datetime
from pathlib import Path

from prefect import task

from gpu_pools.names import host_name
from gpu_pools.placement.queues import parse_duration
from gpu_pools.prefect_client import PoolClient
from gpu_pools.sharing.usage import read_uses
from tasks.accounts.account import accounts_of
from tasks.accounts.params import ReportParams
from tasks.base.errors import TrackingError
from tasks.run.mlflow_run import hold_mlflow_run
from tasks.run.prefect_page import show_markdown
from tasks.run.run_log import logger
from tasks.run.step_context import step_dir

EXPERIMENT = "reports"


@task(task_run_name="report")
def report_occupation(params: ReportParams) -> Path:
    """Write the report, and show it in Prefect and MLflow; return the folder of its files.

    Raises:
        StorageError: the files cannot be written.
    """
    from tasks.accounts.report import PICTURE, local_zone, make_report, write_files
    from tasks.accounts.results import results_of

    until = time.time()
    since, client, folder = until - parse_duration(params.since), PoolClient(), step_dir(None, "report")
    uses = read_uses(client, since)
    try:
        results = results_of(client, uses)
    except TrackingError as exc:
        logger().warning("the sheet has no results: %s", exc)
        results = {}
    zone = local_zone()
    report = make_report(accounts_of(uses, results, host_name()), since, until, zone)
    name = f"report-{datetime.fromtimestamp(until, zone):%Y-%m-%d}"
    with hold_mlflow_run(folder, params.model_dump(), "cpu", EXPERIMENT, name, free=()) as (tracker, log):
        for path in write_files(report, folder):
            tracker.artifact(path)
        tracker.metrics(report.figures(), 0)
        log.info("%s All of it: %s", report.sentence(), folder)
    show_markdown("daily-report", report.markdown((folder / PICTURE).read_bytes()), report.sentence())
    return folder
