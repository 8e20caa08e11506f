"""Reads how far runs are, from their pages in Prefect and from their slots on this host."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from deployments.api import Api, Json
from gpu_pools.slots.lease import Holder, holders

_FIRST_SENT_S = 5.0  # a page is first sent so long after the work began, see tasks.run.prefect_page
_TOO_EARLY = 0.5  # percent; before that the time left would be a guess


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is; None where that is not known.

    Args:
        device: it really has, `cuda:0`, or `cuda:0,cuda:2`; empty: not known here.
        epoch, n_epochs: the last one that ended, of.
        percent: of the work, 0 to 100.
        remaining_s: about; seconds.
        last_epoch: its metrics, as the run shows them.
        unit: what is counted: epoch, step, image ...
    """

    device: str = ""
    epoch: int | None = None
    n_epochs: int | None = None
    percent: float | None = None
    remaining_s: float | None = None
    last_epoch: Json | None = None
    unit: str = "epoch"


def read_progress(api: Api, ids: Sequence[str]) -> dict[str, RunProgress]:
    """Return how far each of these runs is; those of which nothing is known are left out."""
    if not ids:
        return {}
    pages: dict[str, list[Json]] = {}
    kinds = {"any_": ["progress", "table"]}
    body = {"artifacts": {"flow_run_id": {"any_": list(ids)}, "type": kinds}, "sort": "UPDATED_DESC"}
    for artifact in api.pages("/artifacts/filter", body):
        pages.setdefault(artifact["flow_run_id"], []).append(artifact)
    far = {run_id: far_of(artifacts, time.time()) for run_id, artifacts in pages.items()}
    held: dict[str, list[Holder]] = {}
    for holder in holders():
        held.setdefault(holder.run_id, []).append(holder)
    for run_id in held.keys() & set(ids):
        devices = ",".join(holder.device for holder in held[run_id])
        far[run_id] = replace(_with_holder(far.get(run_id, RunProgress()), held[run_id][0]), device=devices)
    return far


def _with_holder(known: RunProgress, holder: Holder) -> RunProgress:
    at = holder.progress
    if at is None:
        return replace(known, device=holder.device)
    left = known.remaining_s if at.remaining_s is None else max(0.0, at.remaining_s - (time.time() - at.updated))
    return replace(known, device=holder.device, epoch=at.epoch, n_epochs=at.n_epochs, remaining_s=left, unit=at.unit)


def far_of(artifacts: Sequence[Mapping[str, Any]], now: float) -> RunProgress:
    """Return what the artifacts of a run say, newest first.

    Args:
        artifacts: of types progress and table, as the server has them.
        now: Unix seconds.
    """
    last = last_row(artifacts)
    bar = next((found for found in artifacts if found["type"] == "progress"), None)
    far = RunProgress()
    if last is not None:
        unit = "step" if "step" in last else "epoch"
        far = RunProgress(epoch=last.get(unit), n_epochs=last.get(f"total_{unit}s"), last_epoch=last, unit=unit)
    return far if bar is None else replace(far, percent=float(bar["data"]), remaining_s=_estimate(bar, now))


def last_row(artifacts: Sequence[Mapping[str, Any]]) -> Json | None:
    """Return the metrics of the last epoch among the artifacts of a run, newest artifact first; None: there are none.

    They are in a table of their own where the table of epochs has no room for all of them, see tasks.run.prefect_page.
    """
    if rows := _table(artifacts, "-last"):
        return {str(row["figure"]): row["value"] for row in rows}
    return next(reversed(_table(artifacts, "-epochs")), None)


def _table(artifacts: Sequence[Mapping[str, Any]], ending: str) -> list[Json]:
    for found in artifacts:
        if found["type"] == "table" and str(found["key"]).endswith(ending):
            data = found["data"]
            rows: list[Json] = json.loads(data) if isinstance(data, str) else data
            return rows
    return []


def _estimate(bar: Mapping[str, Any], now: float) -> float | None:
    percent = float(bar["data"])
    if percent < _TOO_EARLY:
        return None
    begun, moved = (datetime.fromisoformat(bar[name]).timestamp() for name in ("created", "updated"))
    took = moved - begun + _FIRST_SENT_S
    return max(0.0, took * (100 - percent) / percent - (now - moved))
