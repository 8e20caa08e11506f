"""Finds work that Prefect's background services have left undone.

Nothing is asked but what a server tells by REST, so that another server than that of this machine can be looked at,
too. Each check knows a work that one service does within seconds, and looks for that which has waited for minutes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from deployments.runs.prefect_http import Ask, paged, silent_workers

GRACE = timedelta(seconds=150)
"""Of a machine that is busy: twice the minute after which the slowest of these services comes round again."""

_SHOWN = 3
_EVENT_WINDOW = timedelta(hours=12)
_UNENDED = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED"]

Json = Mapping[str, Any]


def undone(call: Ask, now: datetime) -> list[str]:
    """Return a sentence for each service behind Prefect's server that does not do its work.

    Args:
        call: asks Prefect's API.
        now: the time there.

    Raises:
        ServiceError: the server does not answer, or refuses.
    """
    settings: Json = call("GET", "/admin/settings", None)["server"]
    checks: Sequence[Callable[[Ask, datetime, Json], Iterator[str]]] = (
        _unscheduled,
        _unmarked_workers,
        _unexpired_pauses,
        _uncancelled_children,
        _unkept_events,
        _unrecorded_tasks,
        _unremoved_events,
    )
    return [fault for check in checks for fault in check(call, now, settings)]


def _unscheduled(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    rules = settings["services"]["scheduler"]
    late: list[str] = []
    for deployment in paged(call, "/deployments/filter", {}):
        # A schedule that was changed a moment ago has its runs a moment later.
        active = [s for s in deployment["schedules"] if s["active"] and _time(s["updated"]) < now - GRACE]
        if deployment["paused"] or not active or _time(deployment["updated"]) > now - GRACE:
            continue
        runs = _runs_since(call, deployment["id"], now - GRACE)
        for schedule in active:
            have = [at for made_by, at in runs if made_by == schedule["id"]]
            if why := _why_late(schedule["schedule"], have, now, rules):
                name = schedule["slug"] or _rhythm(schedule["schedule"])
                late.append(f"{name!r} of {deployment['name']} ({why})")
    if late:
        off = "" if rules["enabled"] else ", it is switched off (PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED)"
        yield f"Prefect's scheduler makes no runs{off}: found none for the active schedule {_listed(late)}"


def _why_late(schedule: Json, have: Sequence[datetime], now: datetime, rules: Json) -> str:
    try:
        missing = missing_runs(schedule, have, now, rules)
    except ValueError as exc:  # an end without a zone, say
        return f"cannot be read: {exc}"
    return f"next at {missing[0]:%Y-%m-%d %H:%M:%S} UTC" if missing else ""


def _runs_since(call: Ask, deployment: str, since: datetime) -> list[tuple[str, datetime]]:
    """Return (schedule, when it starts) of what schedules have made of a deployment, ended or not."""
    flow_runs = {"deployment_id": {"any_": [deployment]}, "expected_start_time": {"after_": since.isoformat()}}
    rows = paged(call, "/flow_runs/filter", {"flow_runs": flow_runs, "sort": "EXPECTED_START_TIME_DESC"})
    made = [row for row in rows if row["auto_scheduled"] and row["created_by"]]
    return [(row["created_by"]["id"], _time(row["expected_start_time"])) for row in made]


def missing_runs(schedule: Json, have: Sequence[datetime], now: datetime, rules: Json) -> list[datetime]:
    """Return the times to come for which a scheduler that works would have made a run.

    Args:
        schedule: as Prefect's API gives it.
        have: for which there is a run, from `GRACE` before now on.
        now: the time.
        rules: the settings of the scheduler: so many runs ahead, and so far.
    """
    since, ahead = now - GRACE, _seconds(rules["min_scheduled_time"])
    n_runs = int(rules["min_runs"])
    if len(have) >= n_runs and max(have) >= since + ahead:
        return []  # the usual case, without loading Prefect
    wanted: list[datetime] = []
    horizon = since + _seconds(rules["max_scheduled_time"])
    for at in takewhile(lambda date: date <= horizon, _dates(schedule, since, int(rules["max_runs"]))):
        wanted.append(at)
        if len(wanted) >= n_runs and at >= since + ahead:
            break
    return [at for at in wanted if at > now and at not in have]


def _dates(schedule: Json, since: datetime, n_dates: int) -> list[datetime]:
    """Return when a schedule fires, as Prefect itself counts."""
    from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    kind = CronSchedule if "cron" in schedule else RRuleSchedule if "rrule" in schedule else IntervalSchedule
    dates = kind.model_validate(schedule)._get_dates_generator(n=n_dates, start=since)
    return [datetime.fromisoformat(at.isoformat()) for at in dates]


def _rhythm(schedule: Json) -> str:
    return str(schedule.get("cron") or schedule.get("rrule") or f"every {schedule.get('interval')} s")


def _unmarked_workers(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    times = settings["services"]["foreman"]["inactivity_heartbeat_multiple"]
    for name, heard in silent_workers(call, now - GRACE, times):
        yield (
            f"Prefect's watch over workers (foreman) does not work: "
            f"worker {name} counts as online, and was last heard of {_ago(now - heard)} ago"
        )


def _unexpired_pauses(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    rows = paged(call, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}})
    until = {row["name"]: (row["state"]["state_details"] or {}).get("pause_timeout") for row in rows}
    over = [f"{name} (until {at})" for name, at in until.items() if at and _time(at) < now - GRACE]
    if over:
        yield f"Prefect does not end pauses that are over: {_listed(over)}"


def _uncancelled_children(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    ended = {"after_": (now - timedelta(days=1)).isoformat(), "before_": (now - GRACE).isoformat()}
    cancelled = {"state": {"type": {"any_": ["CANCELLED"]}}, "end_time": ended}
    body = {"flow_runs": cancelled, "sort": "END_TIME_DESC", "limit": 50}
    parents = [row["id"] for row in call("POST", "/flow_runs/filter", body)]
    if not parents:
        return
    children = {"parent_flow_run_id": {"any_": parents}, "state": {"type": {"any_": _UNENDED}}}
    rows = call("POST", "/flow_runs/filter", {"flow_runs": children})
    left = [row["name"] for row in rows if _time(row["state"]["timestamp"]) < now - GRACE]
    if left:
        yield f"Prefect does not cancel the children of runs that were cancelled: {_listed(left)}"


def _unkept_events(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    """Look for the events of the last changes of runs: each has the number of the state."""
    begun = {"start_time": {"after_": (now - _EVENT_WINDOW).isoformat(), "before_": (now - GRACE).isoformat()}}
    rows = call("POST", "/flow_runs/filter", {"flow_runs": begun, "sort": "START_TIME_DESC", "limit": 20})
    changes = {row["state"]["id"]: row for row in rows if _time(row["state"]["timestamp"]) < now - GRACE}
    if not changes:
        return
    if _events(call, {"id": {"id": list(changes)}, "occurred": _between(now - 2 * _EVENT_WINDOW, now)}, 1):
        return  # some may be lost in a burst
    last = max(changes.values(), key=lambda row: str(row["state"]["timestamp"]))
    yield (
        "Prefect does not keep events (event persister), so notices and automations may not come: "
        f"none of {last['name']}, {last['state']['name']} since {last['state']['timestamp']}"
    )


def _unrecorded_tasks(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    """Look for the task runs of the last events of task runs, of flow runs that are still there."""
    occurred = _between(now - _EVENT_WINDOW, now - GRACE)
    wanted_events = {"event": {"prefix": ["prefect.task-run."]}, "occurred": occurred, "order": "DESC"}
    tasks = {_id(event["resource"]): _flow_run(event) for event in _events(call, wanted_events, 20)}
    there = call("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": [*filter(None, tasks.values())]}}})
    kept = {row["id"] for row in there}
    wanted = [task for task, flow_run in tasks.items() if flow_run in kept]
    if wanted and not call("POST", "/task_runs/filter", {"task_runs": {"id": {"any_": wanted}}}):
        yield f"Prefect does not record the task runs it hears of (task run recorder): {_listed(wanted)}"


def _flow_run(event: Json) -> str:
    """Return the flow run that an event is about; empty where it names none."""
    related = [_id(each) for each in event["related"] if each.get("prefect.resource.role") == "flow-run"]
    return related[0] if related else ""


def _events(call: Ask, wanted: Json, limit: int) -> list[Any]:
    found: list[Any] = call("POST", "/events/filter", {"filter": wanted, "limit": limit})["events"]
    return found


def _between(since: datetime, until: datetime) -> Json:
    return {"since": since.isoformat(), "until": until.isoformat()}


def _unremoved_events(call: Ask, now: datetime, settings: Json) -> Iterator[str]:
    rules = settings["services"]["db_vacuum"]
    kept = _seconds(settings["events"]["retention_period"])
    if "events" not in (rules["enabled"] or []):
        return
    # A server that was away for days has that much to remove; it does so every hour.
    until = now - kept - timedelta(hours=2) - 2 * timedelta(seconds=rules["loop_seconds"])
    if found := _events(call, {"occurred": _between(until - timedelta(days=60), until)}, 1):
        yield f"Prefect does not remove old events (database vacuum): found one of {found[0]['occurred']}"


def _id(resource: Json) -> str:
    return str(resource["prefect.resource.id"]).rpartition(".")[2]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _ago(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f} min"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _seconds(duration: Any) -> timedelta:
    """Return a span that the server gives as a number of seconds or in the form of ISO 8601."""
    from pydantic import TypeAdapter

    return TypeAdapter(timedelta).validate_python(duration)
