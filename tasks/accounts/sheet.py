"""Writes accounts and sums as CSV, which spreadsheets and pandas open."""

import csv
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from tasks.accounts.account import Account, Sum

_TIMES = ("asked", "began", "ended")
_DIGITS = {"gpu_hours": 4, "hours": 4, "gpu_busy_share": 3}
_FORMULA = ("=", "+", "-", "@")


def write_sheet(rows: Iterable[Account | Sum], out: TextIO) -> None:
    """Write a line of names and then a row each, as they come; nothing for no rows.

    Texts that a spreadsheet would take for a formula get a ' in front. Numbers stay numbers, times are UTC.

    Args:
        rows: all of one kind.
        out: to write to; opened with newline="".
    """
    writer = None
    for row in rows:
        cells = as_cells(row)
        if writer is None:
            writer = csv.DictWriter(out, list(cells), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _harmless(value) for name, value in cells.items()})


def as_cells(row: Account | Sum) -> dict[str, Any]:
    """Return a row by the names of its columns: times as 2026-11-29 14:02:05 of UTC, numbers rounded."""
    return dict(_cell(name, value) for name, value in asdict(row).items())


def _cell(name: str, value: Any) -> tuple[str, Any]:
    if name in _TIMES:
        return f"{name}_utc", None if value is None else f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float) and name != "value":
        return name, round(value, _DIGITS.get(name, 1))
    return name, value


def _harmless(value: Any) -> Any:
    """Return a cell that is one line, and that no spreadsheet calculates (OWASP, "CSV injection")."""
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())
    return f"'{line}" if line.startswith(_FORMULA) else line
