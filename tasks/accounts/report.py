"""The report on who had which device: a table of owners, a picture of the devices, the sheets."""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from gpu_pools.placement.queues import duration_text
from tasks.accounts.account import Account, Sum, sums, total, within
from tasks.accounts.occupation import draw_occupation
from tasks.accounts.sheet import write_sheet
from tasks.base.workspace import write_atomic

PICTURE, RUNS, OWNERS, PAGE = "occupation.png", "runs.csv", "owners.csv", "report.html"
_HEADS = ("owner", "runs", "GPU hours", "hours", "Wh", "median wait", "longest wait", "failed")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}"
    "body{color:#222;background:#fff}h1{font-size:1.3rem}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%;margin-top:1rem}"
)


@dataclass(frozen=True, slots=True)
class Report:
    """Who had which device between two times.

    Args:
        accounts: of the runs that had one then; their time and energy as a whole.
        since, until: Unix seconds.
        zone: in which people read the times.
    """

    accounts: Sequence[Account]
    since: float
    until: float
    zone: tzinfo

    @property
    def title(self) -> str:
        """The time that the report is of."""
        begin, end = (datetime.fromtimestamp(at, self.zone) for at in (self.since, self.until))
        return f"Who had which device, {begin:%d %b %Y %H:%M} to {end:%d %b %Y %H:%M} ({end:%Z})"

    @property
    def all(self) -> Sum:
        """What all had between the two times."""
        return total(self._parts())

    def owners(self) -> list[Sum]:
        """Return what each had between the two times, who had most first."""
        return sums(self._parts(), "owner")

    def sentence(self) -> str:
        """Return the report in one sentence."""
        found, n_owners = self.all, len(self.owners())
        if not found.runs:
            return "No run had a device."
        unknown = f" ({found.energy_unknown} of the runs did not tell)" if found.energy_unknown else ""
        return (
            f"{found.runs} run{'s' * (found.runs > 1)} of {n_owners} owner{'s' * (n_owners > 1)}: "
            f"{found.gpu_hours:.1f} GPU hours, {found.energy_wh:,.0f} Wh{unknown}; median wait "
            f"{short(found.waited_median_s)}, longest {short(found.waited_longest_s)}; {found.failed} failed."
        )

    def figures(self) -> dict[str, float]:
        """Return the metrics by which days are compared in MLflow."""
        found = self.all
        return {
            "report/runs": found.runs,
            "report/failed": found.failed,
            "report/gpu_hours": found.gpu_hours,
            "report/energy_wh": found.energy_wh,
            "report/waited_median_s": found.waited_median_s,
            "report/waited_longest_s": found.waited_longest_s,
        }

    def markdown(self, picture: bytes) -> str:
        """Return the report as Prefect's page shows it, the picture (PNG) in it: the page fetches from nowhere."""
        lines = ["| " + " | ".join(_HEADS) + " |", "|---|" + "---:|" * (len(_HEADS) - 1)]
        lines += [f"| {_plain(name)} | " + " | ".join(cells) + " |" for name, *cells in self._rows()]
        table = "\n".join(lines) + "\n\n" if self.accounts else ""
        return f"## {self.title}\n\n{table}![who had which device]({_as_url(picture)})\n"

    def page(self, picture: bytes) -> str:
        """Return the report as one HTML page, the picture (PNG) in it."""
        heads = "".join(f"<th>{name}</th>" for name in _HEADS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in self._rows()
        )
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{_STYLE}</style><h1>{html.escape(self.title)}</h1><p>{self.sentence()}</p>"
            f'<table><tr>{heads}</tr>{rows}</table><img src="{_as_url(picture)}" alt="who had which device"></html>\n'
        )

    def _parts(self) -> list[Account]:
        return within(self.accounts, self.since, self.until)

    def _rows(self) -> list[tuple[str, ...]]:
        owners = self.owners()
        return [_row(one) for one in (*owners, *([self.all] if len(owners) > 1 else []))]


def make_report(accounts: Sequence[Account], since: float, until: float, zone: tzinfo) -> Report:
    """Return the report of the time from `since` to `until`, Unix seconds; runs outside are left out."""
    ids = {account.run for account in within(accounts, since, until)}
    return Report([account for account in accounts if account.run in ids], since, until, zone)


def local_zone() -> tzinfo:
    """Return the time zone of this host."""
    return datetime.now().astimezone().tzinfo or UTC


def write_files(report: Report, folder: Path) -> list[Path]:
    """Write the picture, the sheets and the page; return them.

    Raises:
        StorageError: the folder cannot be written.
    """
    picture, page = folder / PICTURE, folder / PAGE
    draw_occupation(report.accounts, report.since, report.until, picture, report.title, report.zone)
    sheets = [
        _write_sheet(report.accounts, folder / RUNS),
        _write_sheet(report.owners(), folder / OWNERS),
    ]
    write_atomic(page, report.page(picture.read_bytes()).encode())
    return [picture, *sheets, page]


def short(seconds: float) -> str:
    """Return a time as people read it: 40 s, 25 min, 3 h 10 min."""
    return f"{seconds:.0f} s" if seconds < 60 else duration_text(60 * round(seconds / 60))


def _write_sheet(rows: Sequence[Account] | Sequence[Sum], path: Path) -> Path:
    out = io.StringIO(newline="")
    write_sheet(rows, out)
    write_atomic(path, out.getvalue().encode())
    return path


def _row(one: Sum) -> tuple[str, ...]:
    energy = f"{one.energy_wh:,.0f}" + (f" ({one.energy_unknown} unknown)" if one.energy_unknown else "")
    return (
        *(one.name, str(one.runs), f"{one.gpu_hours:.1f}", f"{one.hours:.1f}", energy),
        *(short(one.waited_median_s), short(one.waited_longest_s), str(one.failed)),
    )


def _plain(name: str) -> str:
    """Return a name that Markdown and HTML take literally, on one line."""
    return re.sub(r"[^\w\s@.,:/+=-]", lambda found: f"&#{ord(found[0])};", " ".join(name.split()))


def _as_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
