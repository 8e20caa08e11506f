"""Gathers what `yard show` tells of a run, from the server and from its folder."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from deployments.api import Api, Json, NotFoundError
from deployments.cli.terminal.progress import last_row
from deployments.runs.find import ENDED, RunRow, children, make_rows
from gpu_pools.names import FORECAST_LABEL, FORECAST_SOURCE_LABEL
from tasks.base.workspace import home, run_path
from tasks.classification import resume_point as classification
from tasks.recognition import resume_point as recognition
from tasks.splatting import resume_point as splatting
from tasks.vision_language.describe import resume_point as description

_PIPELINES = (
    *(classification.resume_point, splatting.resume_point, recognition.resume_point),
    description.resume_point,
)
"""Each knows by the files of a run whether and from where that goes on."""


def _defaults(api: Api, run: Mapping[str, Any]) -> Json:
    """Return the job variables that a run has of its deployment, those of its own go before them."""
    try:
        found = api.call("GET", f"/deployments/{run['deployment_id']}") if run["deployment_id"] else {}
    except NotFoundError:
        return {}  # deleted since
    return dict(found.get("job_variables") or {})


def read_details(api: Api, run: Json) -> Json:
    """Return everything about a run; the keys are those of `yard show --json`, see docs/services.md."""
    (row,) = make_rows(api, [run])
    stages = children(api, run["id"])
    wanted = {"flow_run_id": {"any_": [run["id"], *(stage["id"] for stage in stages)]}}
    artifacts = list(api.pages("/artifacts/filter", {"artifacts": wanted, "sort": "UPDATED_DESC"}))
    found = api.call("GET", "/flow_run_states/", flow_run_id=run["id"])
    states = sorted(found, key=lambda state: str(state["timestamp"]))
    return {
        **asdict(row),
        "url": api.page(run["id"]),
        "parameters": run["parameters"],
        "job_variables": {**_defaults(api, run), **(run["job_variables"] or {})},
        "created": run["created"],
        "due": run["next_scheduled_start_time"] or run["expected_start_time"],
        "started": run["start_time"],
        "ended": run["end_time"],
        "attempts": _n_attempts(states),
        **_forecast(run),
        "states": [{key: state[key] for key in ("timestamp", "type", "name", "message")} for state in states],
        "halves": [asdict(stage) for stage in make_rows(api, stages)],
        "last_epoch": last_row(artifacts),
        "mlflow": next((_target(found["data"]) for found in artifacts if found["key"] == "mlflow-run"), _tracked(run)),
        "summary": next((found["data"] for found in artifacts if found["key"] == "summary"), None),
        **_files(run, row),
    }


def _n_attempts(states: Sequence[Mapping[str, Any]]) -> int:
    """Return how often a run began; one in a terminal is Running while it waits, and again when it has its slot."""
    types = ["", *(state["type"] for state in states)]
    return sum(now == "RUNNING" != before for before, now in pairwise(types))


def _forecast(run: Mapping[str, Any]) -> Json:
    """Return what a run was expected to take of its GPU's memory when it got its slot; None: not known."""
    labels = run.get("labels") or {}
    return {
        "memory_forecast_mib": labels.get(FORECAST_LABEL),
        "memory_forecast_source": labels.get(FORECAST_SOURCE_LABEL),
    }


def _target(link: str) -> str:
    found = re.search(r"\((\S+)\)$", link)  # [text](address)
    return found[1] if found else link


def _tracked(run: Mapping[str, Any]) -> str | None:
    """Return MLflow's own address of a run that was cut off before its page had one."""
    cards = (json.loads(card.read_text()) for card in sorted(folder_of(run).glob("*/run.json")))
    return next((f"runs:/{card['run_id']}" for card in cards if card.get("run_id")), None)


def folder_of(run: Mapping[str, Any]) -> Path:
    """Return where the files of a run are on the host it ran on: a stage works in the folder of its pipeline."""
    own = home() / "runs" / str(run["id"])
    return run_path(run["parameters"].get("run")) or own


def _files(run: Json, row: RunRow) -> Json:
    folder = folder_of(run)
    figures = folder / "training" / "report" / "metrics.json"
    resume = ""
    if row.type in ENDED and row.type != "COMPLETED":
        where = next(filter(None, (goes_on(folder) for goes_on in _PIPELINES)), "its beginning")
        here = f"`yard resume {run['id']}` goes on here and now, from {where}"
        resume = f"{here}; Retry on its page puts it in its queue again"
    return {
        "folder": str(folder) if folder.is_dir() else None,
        "figures": json.loads(figures.read_text()) if figures.is_file() else None,
        "resume": resume,
    }
