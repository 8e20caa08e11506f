"""Reads who changed what: this home's lines, others' as events, what was done in Prefect itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from deployments.api import Api, Json
from deployments.sharing.acts import ASKED, EVENT
from gpu_pools.names import is_called

PAGE = "Prefect's page or API"
"""Instead of a name: Prefect's events do not say who."""

_SOON = timedelta(seconds=5)  # between what the yard asks for and Prefect's event of it
_RETRIED = "Retry from the UI"
_STATES = ("prefect.flow-run.Cancelling", "prefect.flow-run.Cancelled", "prefect.flow-run.AwaitingRetry")
_CHANGES: Mapping[str, str] = {"paused": "pause", "updated": "change", "deleted": "delete"}
_OTHERS = tuple(f"prefect.{kind}.{what}" for kind in ("work-queue", "work-pool", "deployment") for what in _CHANGES)


@dataclass(frozen=True, slots=True)
class ActRow:
    """An act in a list; the fields are the keys of `--format json` and the columns of `--format csv`.

    Args:
        at: ISO 8601, UTC.
        who: as TRAINYARD_OWNER names, or user@host; of what was done in Prefect itself, nobody knows who.
        act: a verb.
        kind, target, name: what was changed: a run, a device ...; its id; its name.
        owner: whom it belongs to; empty: nobody.
        result: done, refused (who asked was not allowed to), failed; asked: it began, nobody knows how it ended.
        force: whether --force was given.
        details: to what.
        said: why it failed.
        account, host, terminal, client, pid: whose process asked, where; the address of its SSH client.
        id: of the act.
    """

    at: str
    who: str
    act: str
    kind: str
    target: str
    name: str
    owner: str
    result: str
    force: bool
    details: str
    said: str
    account: str
    host: str
    terminal: str
    client: str
    pid: int | None
    id: str

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "ActRow":
        """Return a line as a row; what it lacks is empty."""
        texts = {name: str(line.get(name) or "") for name in cls.__slots__ if name not in {"force", "pid"}}
        pid = line.get("pid")
        return cls(**texts, force=bool(line.get("force")), pid=pid if isinstance(pid, int) else None)


def known_acts(lines: Iterable[Mapping[str, Any]], events: Sequence[Json]) -> list[ActRow]:
    """Return all that is known, oldest first.

    Args:
        lines: of the file.
        events: of Prefect, the yard's own among them.
    """
    told = [event["payload"] for event in events if event["event"].startswith(f"{EVENT}.")]
    acts: dict[str, ActRow] = {}
    for act in filter(_is_whole, map(ActRow.of, (*told, *lines))):
        if act.id not in acts or acts[act.id].result == ASKED:
            acts[act.id] = act
    own = list(acts.values())
    others = [row for event in events if (row := _of_prefect(event)) and not _is_ours(row, own)]
    return sorted([*own, *others], key=lambda row: row.at)


def read_events(api: Api, since: datetime) -> list[Json]:
    """Return the events in Prefect that tell of acts, the newest first; it keeps them for 7 days."""
    wanted = {"event": {"prefix": [f"{EVENT}.", *_STATES, *_OTHERS]}, "occurred": {"since": since.isoformat()}}
    found: list[Json] = []
    answer = api.call("POST", "/events/filter", {"filter": {**wanted, "order": "DESC"}, "limit": 50})
    while True:
        found += answer["events"]
        if not answer["next_page"]:
            return found
        answer = api.call("GET", f"/events{answer['next_page'].partition('/events')[2]}")


def _is_whole(row: ActRow) -> bool:
    """Return whether a line has an id and a time: anybody can send events."""
    try:
        return bool(row.id) and datetime.fromisoformat(row.at).tzinfo is not None
    except ValueError:
        return False


def _of_prefect(event: Json) -> ActRow | None:
    """Return what somebody did in Prefect's page or by its API; None: the yard itself, or a run, did it.

    A state that a worker or a run sets has a message; what a person sets in the page has none, or the page's own.
    """
    resource, said = event["resource"], event["resource"].get("prefect.state-message", "")
    kind, what = event["event"].removeprefix("prefect.").split(".", 1)
    if kind == "flow-run":
        was = ((event["payload"] or {}).get("initial_state") or {}).get("type")
        act = "resume" if what == "AwaitingRetry" else "cancel"
        if said != (_RETRIED if act == "resume" else "") or was == "CANCELLING" or _is_stage(event, what):
            return None
    elif kind in {"work-queue", "work-pool", "deployment"} and what in _CHANGES:
        act = _CHANGES[what]
    else:
        return None
    target = resource["prefect.resource.id"].rpartition(".")[2]
    line = {"at": event["occurred"], "who": PAGE, "act": act, "target": target, "id": event["id"], "result": "done"}
    kinds = {"flow-run": "run", "work-queue": "queue", "work-pool": "pool"}
    name = resource.get("prefect.resource.name", "")
    return ActRow.of({**line, "kind": kinds.get(kind, kind), "name": name, "details": _updates(event["payload"])})


def _is_stage(event: Json, what: str) -> bool:
    """Return whether a waiting stage was cancelled: Prefect drops the message with which the worker does so."""
    return what == "Cancelled" and any(one["prefect.resource.role"] == "task-run" for one in event["related"])


def _updates(payload: Mapping[str, Any]) -> str:
    """Return which values were changed: concurrency_limit 1 -> 3."""
    changed = payload.get("updates") or {}
    return ", ".join(f"{name} {one.get('from')} -> {one.get('to')}" for name, one in changed.items())[:200]


def _is_ours(row: ActRow, own: Sequence[ActRow]) -> bool:
    """Return whether an event is what an act of the yard brought about."""
    at = datetime.fromisoformat(row.at)

    def is_it(act: ActRow) -> bool:
        limits = row.kind == "queue" and act.act == "limit" and row.name.startswith(act.name.replace("/", "."))
        same = act.target == row.target or limits
        return same and abs(datetime.fromisoformat(act.at) - at) < _SOON

    return any(is_it(act) for act in own)


def chosen(rows: Iterable[ActRow], *, since: datetime, run: str | None = None, who: str | None = None) -> list[ActRow]:
    """Return the acts since a time, on a run (its name, its id or the beginning of it), by somebody."""
    return [
        row
        for row in rows
        if datetime.fromisoformat(row.at) >= since
        and (run is None or run == row.name or row.target.startswith(run))
        and (who is None or is_called(row.who, who))
    ]
