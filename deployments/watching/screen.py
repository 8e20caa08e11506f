"""Draws a picture of the yard for a terminal."""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime

import psutil
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deployments.cli.terminal.tables import duration, progress_text, runs_table
from deployments.machine.devices import DeviceView
from deployments.watching.picture import Picture, Slots
from gpu_pools.names import whose
from gpu_pools.placement.wording import clock_text
from gpu_pools.slots.slot_files import UNKNOWN, Holder

_BAR = 12  # columns
_CELLS = 6  # of a device behind its name
_HOT_C, _FULL = 85, 0.9
_STALE_S = 15.0
_MIB_IN_GIB = 1024


def draw(picture: Picture) -> RenderableType:
    """Return the whole picture: a headline, the devices with their slots, what runs elsewhere, what waits and why."""
    parts: list[RenderableType] = [_headline(picture)]
    parts += [Text(f"fault: {fault}", style="red") for fault in picture.faults]
    if note := _server_note(picture):
        parts.append(Text(note, style="yellow"))
    for view in picture.devices:
        parts += [Text(), _device(view), _holders(view, picture)]
    if elsewhere := picture.rows_elsewhere:
        parts += [Text(), Text("elsewhere", style="bold"), runs_table(elsewhere)]
    return Group(*parts, *_waiting(picture))


def _headline(picture: Picture) -> Text:
    n_runs = sum(len(view.runs) for view in picture.devices)
    line = Text.assemble(("yard top", "bold"), f"  {picture.host}  {datetime.fromtimestamp(picture.at):%H:%M:%S}")
    line.append(f"  {n_runs} of its slots are held")
    if _knows(picture):
        line.append(f", {len(picture.waiting_rows)} runs wait")
    return line


def _knows(picture: Picture) -> bool:
    return bool(picture.server.at) and not picture.server.fault


def _server_note(picture: Picture) -> str:
    """Return what is to be said of the server, empty where it answers."""
    server = picture.server
    if not server.at:
        return "the server is being asked ..."
    if server.fault:
        return f"what the server knows is missing: {server.fault}"
    silent_s = picture.at - server.at
    return f"the server has not answered for {duration(silent_s)}" if silent_s > _STALE_S else ""


def _device(view: DeviceView) -> Table:
    """Return the line of a device: name, memory, load, temperature, power; what it does not tell is left out."""
    line = Table.grid(padding=(0, 2))
    line.add_column(width=7, no_wrap=True)
    line.add_column(no_wrap=True, overflow="ellipsis")
    for _ in range(_CELLS):
        line.add_column(no_wrap=True)
    gpu, cells = view.device, list[RenderableType]()
    if gpu is None:
        memory = psutil.virtual_memory()
        used, total = (memory.total - memory.available) / 2**20, memory.total / 2**20
        cells += [Text("CPU"), *_memory(used, total)]
        cells.append(Text(f"load {os.getloadavg()[0]:.1f} of {len(os.sched_getaffinity(0))} cores"))
    else:
        cells += [Text(gpu.name), *_memory(gpu.memory_used_mib, gpu.memory_total_mib)]
        if gpu.utilisation_percent is not None:
            cells += [_bar(gpu.utilisation_percent / 100), Text(f"{gpu.utilisation_percent} % busy")]
        if gpu.temperature_c is not None:
            cells.append(Text(f"{gpu.temperature_c} °C", style="red" if gpu.temperature_c > _HOT_C else ""))
        if gpu.power_w is not None:
            cells.append(Text(f"{gpu.power_w:.0f} W"))
    line.add_row(Text(view.tag, style="bold cyan"), *cells)
    return line


def _memory(used_mib: float, total_mib: float) -> list[RenderableType]:
    gib = f"{used_mib / _MIB_IN_GIB:.1f} of {total_mib / _MIB_IN_GIB:.1f} GiB"
    return [_bar(used_mib / total_mib if total_mib else 0.0), Text(gib)]


def _bar(share: float) -> Text:
    n_full = round(min(max(share, 0.0), 1.0) * _BAR)
    return Text.assemble(("█" * n_full, "red" if share > _FULL else "green"), ("░" * (_BAR - n_full), "dim"))


def _holders(view: DeviceView, picture: Picture) -> Table:
    """Return the slots of a device, a line for each run that holds one and for the open ones of a kind."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=5)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for slots in picture.slots[view.tag]:
        for run in (run for run in view.runs if run.kind == slots.kind):
            table.add_row("", Text(run.kind, style="bold"), *_holder(run, picture))
    table.add_row("", Text("free", style="dim"), Text(_open(picture.slots[view.tag]), style="dim"))
    for process in view.others:
        memory = "" if process.memory_mib is None else f", {process.memory_mib} MiB"
        who = f"process {process.pid} ({process.name}) of {process.user}{memory}: no run of Trainyard"
        table.add_row("", Text("others", style="yellow"), Text(who, style="yellow"))
    return table


def _open(slots: Sequence[Slots]) -> str:
    return ", ".join(f"{one.free} of {one.limit} {one.kind}" for one in slots if one.free) or "no slot"


def _holder(run: Holder, picture: Picture) -> Iterator[RenderableType]:
    """Yield whose run it is, since when, and how far it is: a bar, the epoch, the time left and its end."""
    if run.run_id == UNKNOWN:
        yield Text("a run whose record cannot be read")
        return
    yield Text(whose(run.run_name, run.owner))
    yield Text(f"since {clock_text(run.since, picture.at)}")
    row = picture.row(run.run_id)
    if (far := run.progress) is not None:
        yield _bar(far.epoch / far.n_epochs) if far.n_epochs else Text()
        said = f"{far.unit} {far.epoch} of {far.n_epochs}"
        if far.remaining_s is not None:
            end = max(picture.at, far.updated + far.remaining_s)
            said += f", about {duration(end - picture.at)} more, until {clock_text(end, picture.at)}"
        yield Text(said)
    elif row is not None:
        yield _bar(row.percent / 100) if row.percent is not None else Text()
        yield Text(progress_text(row))


def _waiting(picture: Picture) -> Iterator[RenderableType]:
    if _knows(picture):
        if rows := picture.waiting_rows:
            yield from (Text(), Text("waits", style="bold"), runs_table(rows))
    elif picture.waiting:
        yield from (Text(), Text("waits on this host", style="bold"))
        for run in picture.waiting:
            what = f"{run.queue.label} {run.queue.kind}"
            yield Text(f"  {whose(run.run_name, run.owner)}, since {clock_text(run.since, picture.at)}, for {what}")
