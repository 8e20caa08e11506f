"""Prints results as tables, or as one JSON document."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.runs.find import RunRow
from gpu_pools.slots.use import SlotUse

if TYPE_CHECKING:
    from deployments.sweeps.listing import SweepRow

_COLOURS = {
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "PENDING": "cyan",
    "SCHEDULED": "yellow",
    "FAILED": "red",
    "CRASHED": "red",
}
_SWEEP_COLOURS = {"running": "cyan", "cut off": "yellow", "ended": "green", "cancelled": ""}
_WIDE = 240  # columns where there is no terminal: a line of a file is not cut
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


def console() -> Console:
    """Return the console of standard output; what runs say is never taken for Rich's own markup."""
    terminal = sys.stdout.isatty()
    return Console(markup=False, highlight=False, emoji=False, width=None if terminal else _WIDE)


def print_json(value: Any) -> None:
    """Print one JSON document and nothing else."""
    print(json.dumps(value, indent=2, default=str))


def clock(when: str | None) -> str:
    """Return a server's time as people here read it: 14:02 today, else with its date."""
    if not when:
        return ""
    at = datetime.fromisoformat(when).astimezone()
    today = datetime.now().astimezone().date()
    return f"{at:%H:%M}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    """Return "40 s", "25 min" or "3 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def progress_text(row: RunRow) -> str:
    """Return how far a run is: "epoch 3 of 30, about 25 min more"."""
    parts = []
    if row.epoch is not None and row.n_epochs is not None:
        parts.append(f"{row.unit} {row.epoch} of {row.n_epochs}")
    elif row.percent is not None:
        parts.append(f"{row.percent:.0f} %")
    if row.remaining_s is not None and not row.over:
        parts.append(f"about {duration(row.remaining_s)} more")
    return ", ".join(parts)


def slot(row: RunRow) -> str:
    """Return how an ended run used its device: "held 67 s, GPU 25 %"; empty where it held none."""
    if row.held_s is None:
        return ""
    busy = "" if row.gpu_busy_share is None else f", GPU {100 * row.gpu_busy_share:.0f} %"
    return f"held {duration(row.held_s)}{busy}"


def why(row: RunRow) -> str:
    """Return how far a run is, why it waits, or how it ended and used its device."""
    if row.type == "RUNNING":
        return progress_text(row) or row.message
    held = slot(row)
    # Of a run that ended well Prefect says no more than that.
    return held if held and row.type == "COMPLETED" else "; ".join(filter(None, (held, row.message)))


def state(row: RunRow) -> Text:
    """Return the name of the state in its colour."""
    return Text(row.state, style=_COLOURS.get(row.type, ""))


def runs_table(rows: Sequence[RunRow]) -> Table:
    """Return runs, one a line; the last column says how far a run is, why it waits, or how it ended."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "flow", "name", "owner", "device", "priority", "state", "since"):
        table.add_column(name, no_wrap=name in {"run", "device", "since"}, overflow="fold")
    table.add_column("how far, or why", overflow="fold", ratio=1)
    for row in rows:
        table.add_row(
            *(row.short, row.flow, row.name, row.owner, row.device, str(row.priority or "")),
            *(state(row), clock(row.since), why(row)),
        )
    return table


def sweeps_table(rows: Sequence["SweepRow"], now: float) -> Table:
    """Return sweeps, one a line; now: Unix seconds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("sweep", "flow", "owner", "state", "trials", "running", "pruned", "failed", "best", "age"):
        table.add_column(name, justify="right" if name in {"running", "pruned", "failed"} else "left", overflow="fold")
    for row in rows:
        best = "" if row.best is None else f"{row.metric} {row.best:.4g}, trial {row.best_trial}"
        counts = (f"{row.begun} of {row.n_trials}", str(row.running), str(row.pruned), str(row.failed))
        age = duration(max(0.0, now - row.began))
        table.add_row(
            row.name, row.flow, row.owner, Text(row.state, style=_SWEEP_COLOURS[row.state]), *counts, best, age
        )
    return table


def limits_table(limits: Sequence[Mapping[str, Any]]) -> Table:
    """Return the limits, one queue a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("device", "kind", "at once", ""):
        table.add_column(name)
    for row in limits:
        limit = "as its GPUs" if row["limit"] is None else str(row["limit"])
        table.add_row(row["device"], row["kind"], limit, "paused" if row["paused"] else "")
    return table


def log_line(line: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a line of a log; names: run id -> the name to put before it, where there are several runs."""
    at = datetime.fromisoformat(line["timestamp"]).astimezone()
    level = _LEVELS.get(line["level"], str(line["level"]))
    run = f" [{names[line['flow_run_id']]}]" if len(names) > 1 and line["flow_run_id"] in names else ""
    return f"{at:%H:%M:%S} {level:<7}{run} {line['message']}"


def print_details(details: Mapping[str, Any], row: RunRow, stages: Sequence[RunRow]) -> None:
    """Print everything about one run."""
    from deployments.runs.flow_parameters import in_form_order

    out = console()
    out.print(_facts(details, row))
    if stages:
        _section(out, "parts")
        out.print(runs_table(stages))
    for name in ("last_epoch", "figures"):
        if details[name]:
            _section(out, name.replace("_", " "))
            out.print(_pairs(details[name]))
    _section(out, "states")
    for past in details["states"]:
        out.print(f"{clock(past['timestamp'])}  {past['name']}  {past['message'] or ''}", soft_wrap=True)
    _section(out, "parameters")
    out.print(yaml.safe_dump(in_form_order(row.flow, details["parameters"]), sort_keys=False).rstrip(), soft_wrap=True)
    if details["summary"]:
        _section(out, "summary")
        out.print(details["summary"], soft_wrap=True)


def _facts(details: Mapping[str, Any], row: RunRow) -> Table:
    shown = {
        "run": row.id,
        "name": row.name,
        "flow": row.flow,
        "state": state(row),
        "why": row.message,
        "how far": progress_text(row),
        "owner": row.owner,
        "device": row.device,
        "queue": row.queue,
        "slot": slot_use(row).sentence(),
        "memory": _memory(details, row),
        "priority": row.priority,
        "time limit": details["job_variables"].get("time_limit"),
        "created": clock(details["created"]),
        "started": clock(details["started"]),
        "ended": clock(details["ended"]),
        "took": _took(details),
        "attempts": details["attempts"] or "",
        "files": details["folder"],
        "page": details["url"] or "no server is up; this is from the records of this host, `yard up` shows more",
        "MLflow": details["mlflow"],
        "to go on": details["resume"],
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in shown.items():
        if value is not None and value != "":
            table.add_row(name, value if isinstance(value, Text) else str(value))
    return table


def slot_use(row: RunRow) -> SlotUse:
    """Return how an ended run used its device."""
    return SlotUse(*(getattr(row, field.name) for field in fields(SlotUse)))


def _memory(details: Mapping[str, Any], row: RunRow) -> str:
    """Return "800 MiB expected (interpolated from 4 runs); it took 880 MiB, 10 % more"; empty: nothing was known."""
    expected, taken = details["memory_forecast_mib"], row.peak_memory_mib
    if expected is None:
        return ""
    said = f"{expected:,.0f} MiB expected ({details['memory_forecast_source']})"
    if taken is None:
        return said
    percent = round(100 * (taken - expected) / expected)
    than = f", {abs(percent)} % {'more' if percent > 0 else 'less'}" if percent else ""
    return f"{said}; it took {taken:,.0f} MiB{than}"


def _took(details: Mapping[str, Any]) -> str:
    started, ended = details["started"], details["ended"]
    if not started or not ended:
        return ""
    return duration((datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds())


def _pairs(values: Mapping[str, Any]) -> str:
    known = {name: value for name, value in values.items() if value is not None}
    shown = (f"{name} {round(value, 4) if isinstance(value, float) else value}" for name, value in known.items())
    return ", ".join(shown)


def _section(out: Console, title: str) -> None:
    out.print()
    out.print(Text(title, style="bold"))
