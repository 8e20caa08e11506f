"""Tells from a flow run of Prefect's server what there is to say of it."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gpu_pools.names import DEVICE_LABEL, FROM_SCHEDULE, HOST_LABEL, OWNER_LABEL, named_owner, whose
from gpu_pools.placement.queues import duration_text, queue_of, queue_or_none
from gpu_pools.sharing.notice_settings import Kind
from gpu_pools.sharing.notices import Notice, notice_id
from tasks.tracking.provenance import redacted

TERMINAL_S = 600.0
"""A run in a terminal tells how it ended where it took longer: who started a shorter one still looks at it."""

_MOST_REASON = 300
_WRAPPED = re.compile(r"(?:Flow|Task) run encountered an exception: (?:[\w.]*(?:Error|Exception): )?")
_REFUSED = "refused: "

Row = Mapping[str, Any]


def how_it_ended(run: Row) -> Notice | None:
    """Return what to say of a run that has ended; None: nothing.

    Nothing is said of one that was cancelled, of a stage, whose pipeline tells, of housekeeping that went well, and of
    a short one in a terminal.

    Args:
        run: as Prefect's API has it, its job variables with those of its deployment.
    """
    kind = _ending(run)
    queue = queue_or_none(queue_of(run))
    if kind is None or run["parent_task_run_id"] is not None:
        return None
    if kind == "finished" and queue is not None and queue.kind == "housekeeping":
        return None
    if not run["work_queue_name"] and _ran_s(run) < TERMINAL_S:
        return None
    who, why = whose(run["name"], owner_of(run)), reason(run)
    text = {
        "finished": f"{who} has finished.",
        "failed": f"{who} has failed: {why}",
        "refused": f"{who} was refused: {why}",
    }[kind]
    # A run that a person starts again ends once more: that is another thing to say.
    return _notice(run, kind, f"{run['id']}:{run['run_count']}:{run['state_type']}", text, _times(run))


def _ending(run: Row) -> Kind | None:
    message = str((run["state"] or {}).get("message") or "")
    match run["state_type"]:
        case "COMPLETED":
            return "finished"
        case "CANCELLED":
            of_stage = f" is Cancelled: {_REFUSED}" in message
            return "refused" if of_stage or message.startswith(_REFUSED) else None
        case "FAILED" | "CRASHED":
            return "refused" if run["start_time"] is None else "failed"
    return None


def started_late(run: Row, waited_s: float) -> Notice | None:
    """Return what to say of a run that has started; None where it has not waited for so long, or needed no device.

    A pipeline itself waits for nothing: that its stage has started is told, under the name that both have.

    Args:
        run: as Prefect's API has it.
        waited_s: seconds; a run that waited longer is told of.
    """
    queue = queue_or_none(queue_of(run))
    if queue is None or queue.kind not in {"training", "inference"} or run["state_type"] != "RUNNING":
        return None
    waited = _waited_s(run)
    if waited is None or waited <= waited_s:
        return None
    where = _device(run)
    text = f"{whose(run['name'], owner_of(run))} has started{f' on {where}' if where else ''}, "
    return _notice(run, "started", run["id"], f"{text}after it had waited for {_rounded(waited)}.", {})


def _notice(run: Row, kind: Kind, key: str, text: str, figures: Mapping[str, str]) -> Notice:
    said = run["end_time"] if kind != "started" else run["start_time"]
    return Notice(
        *(notice_id(kind, key), kind, text, owner_of(run), run["id"], run["name"], _device(run)),
        figures=figures,
        at=datetime.fromisoformat(said).timestamp(),
    )


def owner_of(run: Row) -> str:
    """Return whose run it is: as it says itself, "made by a schedule", or empty."""
    named = named_owner(run["job_variables"] or {}, run["parameters"] or {})
    return named or str((run.get("labels") or {}).get(OWNER_LABEL) or (FROM_SCHEDULE if run["auto_scheduled"] else ""))


def reason(run: Row) -> str:
    """Return in one sentence why a run ended as it did, without what looks like a password."""
    text = str((run["state"] or {}).get("message") or "") or f"it is {run['state_name']} and says no more"
    text = redacted(" ".join(_WRAPPED.sub("", text).split()))
    text = text.partition(_REFUSED)[2] or text
    return text if len(text) <= _MOST_REASON else f"{text[: _MOST_REASON - 3]}..."


def _times(run: Row) -> dict[str, str]:
    """Return the figures of a run's life."""
    found = {}
    waited = _waited_s(run)
    if waited is not None and waited >= 1:
        found["waited"] = _rounded(waited)
    if run["start_time"]:
        found["ran"] = _rounded(_ran_s(run))
    if run["run_count"] > 1 and run["work_queue_name"]:  # in a terminal Prefect counts each sentence why it waits
        found["attempts"] = str(run["run_count"])
    return found


def _waited_s(run: Row) -> float | None:
    if not run["start_time"] or not run["expected_start_time"]:
        return None
    return _seconds(run["expected_start_time"], run["start_time"])


def _ran_s(run: Row) -> float:
    return _seconds(run["start_time"], run["end_time"]) if run["start_time"] and run["end_time"] else 0.0


def _seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def _rounded(seconds: float) -> str:
    """Return a duration as people tell it: seconds of what took hours mean nothing."""
    return duration_text(seconds if seconds < 600 else round(seconds / 60) * 60)


def _device(run: Row) -> str:
    """Return the device that a run has, or had, with its host; that which it waits for, before it has one."""
    labels = run.get("labels") or {}
    if device := str(labels.get(DEVICE_LABEL) or ""):
        host = str(labels.get(HOST_LABEL) or "")
        return f"{host}/{device}" if host else device
    queue = queue_or_none(queue_of(run))
    return queue.label if queue is not None and queue.kind in {"training", "inference"} else ""


def headline(artifacts: Sequence[Row]) -> str:
    """Return the heading of a run's summary: "resnet18: 93.1% of 120 test images right"; empty where it has none.

    Args:
        artifacts: of the run and its stages, the newest first.
    """
    for found in artifacts:
        first = str(found["data"] or "").lstrip().partition("\n")[0]
        if found["key"] == "summary" and first.startswith("#"):
            return first.lstrip("# ").strip()
    return ""


def mlflow_links(artifacts: Sequence[Row]) -> dict[str, str]:
    """Return the addresses of a run's pages in MLflow, by what they are of.

    Args:
        artifacts: of the run and its stages, the newest first.
    """
    links: dict[str, str] = {}
    for found in artifacts:
        key, address = str(found["key"]), re.search(r"\((https?://\S+)\)$", str(found["data"] or "").strip())
        if key.startswith("mlflow") and address:
            links.setdefault(f"MLflow{key.removeprefix('mlflow').removeprefix('-run').replace('-', ' ')}", address[1])
    return links
