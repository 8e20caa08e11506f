"""The Prefect task of a trial."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from prefect import task

from gpu_pools.placement.probe import get_probe, resolve_device
from gpu_pools.process.run_setup import DEVICE, ON
from tasks.base.workspace import storage_errors, write_json
from tasks.run.prefect_page import show_markdown
from tasks.run.run_log import logger
from tasks.run.step_context import step_dir
from tasks.trial.params import TrialParams
from tasks.trial.report import TRIAL, CheckResult, Place, Report, TrialFailed
from tasks.trial.runner import run_checks


def place_of(wanted: str) -> Place:
    """Return the device that this run has its slot on; a step called as a plain function has none."""
    gpu = resolve_device(os.environ.get(DEVICE, wanted), get_probe())
    tag = os.environ.get(ON) or (gpu.tag if gpu else "cpu")
    name = gpu.name if gpu else "the CPU"
    return Place(tag, name, gpu.uuid if gpu else "cpu", "cuda" if gpu and not gpu.simulated else "cpu")


@task(task_run_name="try-{params.device}")
def try_device(params: TrialParams) -> Path:
    """Go through all checks of the run's device; return the file of the report.

    Raises:
        TrialFailed: a check failed; the report is written all the same.
    """
    place, folder, begun = place_of(params.device), step_dir(None, "trial"), time.monotonic()
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder))
    rows: list[CheckResult] = []
    try:
        for row in run_checks(place, work):
            logger().info("%s: %s: %s", row.check, row.verdict, row.figure)
            rows.append(row)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report = Report(place, time.monotonic() - begun, rows)
    write_json(folder / TRIAL, report.as_json())
    show_markdown("trial", markdown(report), "What the checks of the device have found")
    if report.failed:
        raise TrialFailed(report.sentence(), folder / TRIAL)
    logger().info("%s", report.sentence())
    return folder / TRIAL


def markdown(report: Report) -> str:
    """Return the report for the page of the run."""
    lines = [report.sentence(), "", "| check | figure | verdict | what to do |", "|---|---|---|---|"]
    cells = ([row.check, row.figure, row.verdict, row.todo] for row in report.rows)
    return "\n".join([*lines, *(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in cells)])
