"""Makes, lists and changes the schedules of flows on the server."""

import inspect
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from deployments.api import Api, Json
from deployments.runs.flow_list import load_flow
from deployments.runs.local import check_parameters
from deployments.runs.submit import Wishes, prepare
from deployments.sharing.permissions import Target
from gpu_pools.names import asker, named_owner
from gpu_pools.placement.queues import duration_text, parse_duration
from gpu_pools.project_flows import own_schedules
from tasks.base.config import override
from tasks.base.errors import ConfigError

_LEAST_S = 60.0


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule in a list; the fields are the keys of `--json`.

    Args:
        id: by which commands take it.
        flow: that it starts.
        when: its cron, or every so long.
        timezone: in which its cron is meant.
        active: whether it fires.
        next: when it does, ISO 8601; None where it is off, or nothing is scheduled yet.
        parameters: of its runs; the others have their defaults.
    """

    id: str
    flow: str
    when: str
    timezone: str
    active: bool
    next: str | None
    parameters: Json


@dataclass(frozen=True, slots=True)
class _Found:
    """A schedule as the server has it, with its deployment."""

    flow: str
    deployment: Json
    schedule: Json

    @property
    def name(self) -> str:
        return str(self.schedule["slug"] or self.schedule["id"])

    @property
    def path(self) -> str:
        return f"/deployments/{self.deployment['id']}/schedules/{self.schedule['id']}"


def rhythm(cron: str | None, every: str | None, timezone: str | None) -> Json:
    """Return a schedule as Prefect's API takes it.

    Args:
        cron: five fields: minute, hour, day of the month, month, day of the week.
        every: 90s, 30m, 1h, 7d.
        timezone: Europe/Berlin; None: that of this host.

    Raises:
        ConfigError: neither or both are given, or one of them is none.
    """
    if (cron is None) == (every is None):
        what = "neither --cron nor --every" if cron is None else "--cron and --every"
        raise ConfigError(f"found {what}, need one of them")
    zone = timezone or host_timezone()
    try:
        ZoneInfo(zone)
    except (ValueError, KeyError, OSError) as exc:
        raise ConfigError(f"found --timezone {zone!r}, need one such as Europe/Berlin or UTC") from exc
    if every is not None:
        seconds = parse_duration(every)
        if seconds < _LEAST_S:
            raise ConfigError(f"found --every {every}, need a minute or more")
        return {"interval": seconds, "timezone": zone}
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=str(cron), timezone=zone)
    except ValueError as exc:
        raise ConfigError(
            f"found --cron {cron!r}, need minute, hour, day of the month, month, day of the week, such as '0 2 * * *'"
        ) from exc
    return {"cron": cron, "timezone": zone}


def host_timezone() -> str:
    """Return the name of this host's time zone: of TZ, else of /etc/localtime; UTC where neither names one."""
    named = os.environ.get("TZ", "").lstrip(":") or str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    try:
        return str(ZoneInfo(named)) if named else "UTC"
    except (ValueError, KeyError, OSError):
        return "UTC"


def add(api: Api, flow_name: str, parameters: Mapping[str, Any], when: Json) -> ScheduleRow:
    """Make a schedule of a flow, its parameters checked as those of a run, and return it.

    Raises:
        ConfigError: a parameter is wrong, or the flow would have to wait in another queue than its deployment's.
        GpuError: no such device.
    """
    given = dict(parameters)
    if "track" in inspect.signature(load_flow(flow_name).fn).parameters and "owner" not in (given.get("track") or {}):
        override(given, [f"track.owner={asker()}"])
    _check_whole(flow_name, given)
    order = prepare(api, flow_name, given, Wishes())
    if queue := order.body.get("work_queue_name"):
        raise ConfigError(f"found a device of queue {queue}: a schedule's runs wait in their deployment's own queue")
    slug = f"{flow_name.replace('_', '-')}-{secrets.token_hex(2)}"
    body = {"active": True, "slug": slug, "schedule": when, "parameters": order.body["parameters"]}
    api.call("POST", f"/deployments/{order.deployment}/schedules", [body])
    return next(row for row in list_schedules(api) if row.id == slug)


def list_schedules(api: Api) -> list[ScheduleRow]:
    """Return all schedules, those that fire first."""
    found = _all(api)
    following = _following(api)
    rows = [
        ScheduleRow(
            id=one.name,
            flow=one.flow,
            when=_when(one.schedule["schedule"]),
            timezone=one.schedule["schedule"].get("timezone") or "UTC",
            active=one.schedule["active"] and not one.deployment["paused"],
            next=following.get(one.schedule["id"]) if one.schedule["active"] else None,
            parameters=one.schedule["parameters"],
        )
        for one in found
    ]
    return sorted(rows, key=lambda row: (not row.active, row.next or "9", row.flow, row.id))


def switch(api: Api, wanted: str, active: bool) -> str:
    """Switch a schedule on or off; return a sentence on it.

    Raises:
        ConfigError: there is none of that id, or, to be switched on, it lacks a parameter that its flow needs.
    """
    found = _find(api, wanted)
    if active:
        given = {**found.deployment["parameters"], **found.schedule["parameters"]}
        try:
            _check_whole(found.flow, given)
        except ConfigError as exc:
            raise ConfigError(
                f"schedule {found.name} of {found.flow} cannot start a run: {exc}; make one of your own: "
                f"`yard schedule {found.flow} NAME=VALUE ... --cron ...`"
            ) from exc
    # With its parameters: the server takes those that are left out for none.
    api.call("PATCH", found.path, {"active": active, "parameters": found.schedule["parameters"]})
    return f"schedule {found.name} of {found.flow} {'fires again' if active else 'is off'}"


def schedule_target(api: Api, wanted: str) -> Target:
    """Return a schedule as what is changed: its owner's, as its parameters name him, else the yard's.

    Raises:
        ConfigError: there is none of that id.
    """
    found = _find(api, wanted)
    owner = named_owner({}, found.schedule["parameters"])
    return Target("schedule", found.name, found.flow, owner, shared=not owner)


def remove(api: Api, wanted: str) -> str:
    """Remove a schedule; return a sentence on it.

    Raises:
        ConfigError: there is none of that id, or it is of prefect.yaml, which brings it back.
    """
    found = _find(api, wanted)
    if found.schedule["slug"] in own_schedules(found.flow):
        raise ConfigError(
            f"schedule {found.name} of {found.flow} is of prefect.yaml, and would come back: "
            f"`yard schedule --pause {wanted}` switches it off"
        )
    api.call("DELETE", found.path)
    return f"schedule {found.name} of {found.flow} is removed"


def _check_whole(flow_name: str, given: Json) -> None:
    """Refuse parameters with which no run can start: nobody is there to see it fail at night.

    Raises:
        ConfigError: names every wrong or missing field.
    """
    flow = load_flow(flow_name)
    check_parameters(flow, given)
    train = given.get("train") or {}
    if "data" in inspect.signature(flow.fn).parameters and not given.get("data") and not train.get("train_path"):
        raise ConfigError("data: found nothing, need a value")


def _all(api: Api) -> list[_Found]:
    deployments = [row for row in api.pages("/deployments/filter", {}) if row["schedules"]]
    names = api.flow_names([row["flow_id"] for row in deployments])
    return [_Found(names[row["flow_id"]], row, schedule) for row in deployments for schedule in row["schedules"]]


def _find(api: Api, wanted: str) -> _Found:
    known = _all(api)
    found = [one for one in known if wanted in (one.name, f"{one.flow}/{one.name}", one.schedule["id"])]
    if len(found) == 1:
        return found[0]
    have = ", ".join(f"{one.flow}/{one.name}" for one in (found or known)) or "none"
    raise ConfigError(f"found {len(found) or 'no'} schedule{'s' * (len(found) != 1)} {wanted!r}, need one of: {have}")


def _following(api: Api) -> dict[str, str]:
    """Return schedule -> when its next run is due."""
    wanted = {"state": {"type": {"any_": ["SCHEDULED"]}}, "tags": {"all_": ["auto-scheduled"]}}
    found: dict[str, str] = {}
    for run in api.pages("/flow_runs/filter", {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC"}):
        if run["created_by"]:
            found.setdefault(str(run["created_by"]["id"]), run["expected_start_time"])
    return found


def _when(schedule: Json) -> str:
    if "cron" in schedule:
        return str(schedule["cron"])
    if "rrule" in schedule:
        return str(schedule["rrule"])
    from pydantic import TypeAdapter

    return f"every {duration_text(TypeAdapter(timedelta).validate_python(schedule['interval']).total_seconds())}"
