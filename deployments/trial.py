"""Tries a device as a run of this process, and shows the results."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.runs.local import run_here
from tasks.base.workspace import run_dir
from tasks.trial.report import TRIAL, Report, TrialFailed

_COLOURS = {"ok": "green", "failed": "red", "not here": "yellow"}


def try_here(device: str) -> Report:
    """Return what the checks of a device have found, once it has a slot for them.

    Args:
        device: cpu, cuda or cuda:N.

    Raises:
        GpuError: this machine does not have it.
    """
    try:
        file = run_dir(str(run_here("try_device", {}, device=device))) / "trial" / TRIAL
    except TrialFailed as exc:
        file = exc.report
    return read_report(file)


def read_report(file: Path) -> Report:
    """Return the report in a file."""
    return Report.from_json(json.loads(file.read_text()))


def print_report(report: Report, console: Console) -> None:
    """Print a table of the checks, and the whole in a sentence."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, share in (("check", 2), ("figure", 5), ("verdict", 1), ("what to do", 3)):
        table.add_column(name, ratio=share, overflow="fold")
    for row in report.rows:
        table.add_row(row.check, row.figure, Text(row.verdict, _COLOURS[row.verdict]), row.todo)
    console.print(table)
    console.print(report.sentence(), soft_wrap=True)
