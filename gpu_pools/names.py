"""Names of owners, hosts and workers, for every command and page."""

import getpass
import os
import socket
from collections.abc import Mapping
from typing import Any

OWNER = "TRAINYARD_OWNER"
"""Whose runs these are, user@host, where it is not who is logged in; a run has its own owner in it."""

FROM_PAGE = "asked in Prefect's page"
FROM_SCHEDULE = "made by a schedule"
NOBODY = (FROM_PAGE, FROM_SCHEDULE)
"""Instead of an owner: nobody said who it was."""

DEVICE_LABEL, HOST_LABEL, OWNER_LABEL = "trainyard.device", "trainyard.host", "trainyard.owner"
"""Labels of a flow run: where it runs, or ran, and, of `yard run`, which has no job variables, who started it."""

KIND_LABEL, WAITED_LABEL = "trainyard.kind", "trainyard.waited_s"
"""Labels of a flow run of `yard run`, which has no queue: its kind, and how many seconds it waited as Running."""

PEAK_LABEL = "trainyard.peak_memory_mib"
"""Label of a flow run that has ended: the most of its GPU's memory, MiB, that its processes held at once."""

FORECAST_LABEL, FORECAST_SOURCE_LABEL = "trainyard.memory_forecast_mib", "trainyard.memory_forecast_source"
"""Labels of a flow run: what it was expected to take when it started, and how that was known."""

ADMINS_VARIABLE = "trainyard_admins"
"""Variable of Prefect with the yard's admins, for those who do not have its home."""

BOOKING_HOURS_VARIABLE = "trainyard_booking_hours"
"""Variable of Prefect with the hours that a person may book in a week, for the same."""

IDLE_LABEL = "trainyard.idle"
"""Label of a flow run whose slot idles: the sentence that says so; empty: it works again."""

GIVEN_BACK_LABEL = "trainyard.given_back"
"""Label of a run in a terminal that the worker has told to end because its slot idled: the sentence that says so."""

PROCESS_LABEL = "trainyard.process"
"""Label of a run in a terminal: host, namespace, number and beginning of its process."""

PINNED = "pinned"
"""Tag of a flow run of which housekeeping removes nothing."""


def is_called(owner: str, name: str) -> bool:
    """Return whether an owner (anna@boxa) is meant by a name: `anna` of whatever host, or `anna@boxa` there alone."""
    return name in {owner, owner.partition("@")[0]}


SHORT_ID = 8
"""Characters of a short id."""


def short_id(run_id: str) -> str:
    """Return the eight characters by which people name a run: the first of its id, of a scheduled run the last.

    The server gives the runs of its schedules ids of version 7 (RFC 9562), which begin with the time: those of one
    minute are alike at the beginning.
    """
    return run_id[-SHORT_ID:] if run_id[14:15] == "7" else run_id[:SHORT_ID]


def is_id(run_id: str, part: str) -> bool:
    """Return whether an id is meant by its beginning, or by its last eight characters."""
    return run_id.startswith(part) or (len(part) == SHORT_ID and run_id.endswith(part))


def host_name() -> str:
    """Return the short name of this host, as in `boxb/cuda:1`."""
    return socket.gethostname().partition(".")[0]


def worker_label(name: str) -> str:
    """Return how Prefect shows the worker `name` of this host: HOST, or HOST:NAME, as hosts are told by it."""
    host = host_name()
    return host if name == host else f"{host}:{name.removeprefix(f'{host}/')}"


def by_host(workers: Mapping[str, bool]) -> dict[str, bool]:
    """Return, of workers as `worker_label` names them and whether each is online, the hosts and whether one is."""
    hosts: dict[str, bool] = {}
    for name, online in workers.items():
        host = name.partition(":")[0]
        hosts[host] = online or hosts.get(host, False)
    return hosts


def asker() -> str:
    """Return who asks: TRAINYARD_OWNER, else user@host of who runs this; inside a run, its owner."""
    if named := os.environ.get(OWNER, "").strip():
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user without a name
    return f"{user}@{host_name()}"


def named_owner(variables: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return who a run says it belongs to, "" where nobody said so: in its job variables, else in its parameters.

    Args:
        variables: the run's job variables.
        parameters: its own; a form has the owner among them, as `track.owner`.
    """
    track = parameters.get("track")
    return str(variables.get("owner") or (track.get("owner") if isinstance(track, Mapping) else "") or "").strip()


def whose(run_name: str, owner: str) -> str:
    """Return a run and who asked for it, as sentences have it."""
    return f"{run_name}, {owner}" if owner in NOBODY else f"{run_name} of {owner}"


def person_of(owner: str) -> str:
    """Return the person of user@host, the same on every host; of a run that says no owner, what stands there."""
    return owner if owner in NOBODY else owner.partition("@")[0]


def people_text(person: str) -> str:
    """Return a person as sentences have it: anna; runs asked in Prefect's page."""
    return f"runs {person}" if person in NOBODY else person
