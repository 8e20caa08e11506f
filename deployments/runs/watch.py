"""Follows a run in the terminal until it ends."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deployments.api import Api, Json
from deployments.cli.terminal.tables import console, duration, log_line, progress_text, state
from deployments.runs.find import LogTail, RunRow, children, make_rows

EXIT_CODES = {"COMPLETED": 0, "CANCELLED": 130}
"""Of the command, by the state in which the run ended; 1 for all others."""
STOPPED_WATCHING = 130

_POLL_S = 2.0
_LAST_LINES_S = 2.5  # a run's last lines are sent in a batch, up to 2 s after its last state
_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """What is seen of a run at one moment.

    Args:
        row: the run.
        stages: the runs it has started.
        lines: of their logs, new since the last look.
    """

    row: RunRow
    stages: Sequence[RunRow]
    lines: Sequence[Json]

    @property
    def rows(self) -> list[RunRow]:
        """The run, then its stages."""
        return [self.row, *self.stages]

    @property
    def names(self) -> dict[str, str]:
        """Return run id -> flow, which tells the stages of a pipeline apart."""
        return {row.id: row.flow for row in self.rows}


def snapshots(api: Api, run_id: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[RunSnapshot]:
    """Yield what is seen of a run every two seconds; the last one when it has ended and all its lines are there."""
    tail = LogTail(api)
    while True:
        run = api.call("GET", f"/flow_runs/{run_id}")
        row, *stages = make_rows(api, [run, *children(api, run_id)])
        if row.over:
            sleep(_LAST_LINES_S)
            yield RunSnapshot(row, stages, tail.more([run_id, *(stage.id for stage in stages)]))
            return
        yield RunSnapshot(row, stages, tail.more([run_id, *(stage.id for stage in stages)]))
        sleep(_POLL_S)


class Story:
    """Tells snapshots as lines, each thing once."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, str]] = {}
        self._epochs: dict[str, int | None] = {}

    def tell(self, snapshot: RunSnapshot) -> list[str]:
        """Return the lines for what is new: states with their sentences, the log, epochs with metrics and time left."""
        lines = [line for row in snapshot.rows for line in self._state(row, alone=not snapshot.stages)]
        lines += [log_line(line, snapshot.names) for line in snapshot.lines]
        return lines + [line for row in snapshot.rows for line in self._epoch(row)]

    def _state(self, row: RunRow, *, alone: bool) -> Iterator[str]:
        now = (row.state, row.message)
        if self._said.get(row.id) != now:
            self._said[row.id] = now
            name = row.name if alone else f"{row.name} ({row.flow})"
            yield f"{name}: {row.state}" + (f": {row.message}" if row.message else "")

    def _epoch(self, row: RunRow) -> Iterator[str]:
        if row.epoch is not None and self._epochs.get(row.id) != row.epoch:
            self._epochs[row.id] = row.epoch
            metrics = ", ".join(f"{name} {_shown(value)}" for name, value in _metrics(row.last_epoch))
            yield progress_text(row) + (f": {metrics}" if metrics else "")


def panels(snapshot: RunSnapshot) -> RenderableType:
    """Return the moving part of the terminal: a line for the run and each stage, and the metrics of the last epoch."""
    parts: list[RenderableType] = []
    for row in snapshot.rows:
        line = Text.assemble((row.name, "bold"), f" ({row.flow})  ", state(row))
        if row.device:
            line.append(f"  {row.device}")
        parts.append(line)
        if said := row.message if row.type != "RUNNING" else progress_text(row):
            parts.append(Text(f"  {said}"))
        if row.type == "RUNNING" and row.percent is not None:
            parts.append(ProgressBar(total=100, completed=row.percent, width=60))
        if row.last_epoch:
            parts.append(_table(row.last_epoch))
    return Group(*parts)


def watch(api: Api, run_id: str) -> int:
    """Follow a run to its end; return the exit code of the command. Ctrl-C ends the watching only."""
    out = console()
    story = Story()
    try:
        last: RunSnapshot | None = None
        if out.is_terminal:
            with Live(console=out, auto_refresh=False, transient=True) as live:
                for last in snapshots(api, run_id):
                    for line in last.lines:
                        out.print(log_line(line, last.names), soft_wrap=True)
                    live.update(panels(last), refresh=True)
        else:
            for last in snapshots(api, run_id):
                for text in story.tell(last):
                    print(text, flush=True)
        assert last is not None
        if out.is_terminal:
            out.print(panels(last))
        return _result(api, last.row)
    except KeyboardInterrupt:
        print(f"stopped watching; the run goes on: `yard watch {run_id}` looks again, `yard cancel {run_id}` ends it")
        return STOPPED_WATCHING


def follow(api: Api, run_id: str) -> None:
    """Print the log of a run and its stages as it grows, until the run ends. Ctrl-C ends the following only."""
    try:
        for snapshot in snapshots(api, run_id):
            for line in snapshot.lines:
                print(log_line(line, snapshot.names), flush=True)
    except KeyboardInterrupt:
        print(f"stopped following; the run goes on: `yard logs {run_id} --follow`")


def _result(api: Api, row: RunRow) -> int:
    run = api.call("GET", f"/flow_runs/{row.id}")
    took = run.get("total_run_time")
    print(f"{row.name}: {row.state}" + (f" after {duration(took)}" if took else "") + f"; {api.page(row.id)}")
    return EXIT_CODES.get(row.type, 1)


def _metrics(last_epoch: Json | None) -> list[tuple[str, Any]]:
    shown = [
        (name, value)
        for name, value in (last_epoch or {}).items()
        if name not in {"epoch", "total_epochs", "step", "total_steps"}
    ]
    return [(name, value) for name, value in shown if value is not None][:_COLUMNS]


def _table(last_epoch: Json) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    metrics = _metrics(last_epoch)
    for name, _ in metrics:
        table.add_column(name, justify="right")
    table.add_row(*(_shown(value) for _, value in metrics))
    return table


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
