"""Announces to everybody that the yard drains, by a variable of Prefect."""

from datetime import UTC, datetime

from deployments.runs.prefect_http import Ask, asking

VARIABLE = "trainyard_drains"


def announce(api: str) -> None:
    """Say at the server that from now on nothing starts.

    Args:
        api: address of Prefect's API.

    Raises:
        ServiceError: it does not answer.
    """
    with asking(api) as call:
        _remove(call)
        call("POST", "/variables/", {"name": VARIABLE, "value": datetime.now(UTC).isoformat(timespec="seconds")})


def withdraw(api: str) -> None:
    """Take back what an earlier stack said when it drained.

    Raises:
        ServiceError: the server does not answer.
    """
    with asking(api) as call:
        _remove(call)


def _remove(call: Ask) -> None:
    for found in call("POST", "/variables/filter", {"variables": {"name": {"any_": [VARIABLE]}}}):
        call("DELETE", f"/variables/{found['id']}", None)


def drain_note(call: Ask) -> str | None:
    """Return the sentence for who submits or asks how the yard is, None where it does not drain.

    Args:
        call: asks Prefect's API.
    """
    found = call("POST", "/variables/filter", {"variables": {"name": {"any_": [VARIABLE]}}})
    if not found:
        return None
    try:
        since = f" since {datetime.fromisoformat(found[0]['value']).astimezone():%H:%M}"
    except (TypeError, ValueError, OverflowError):
        since = ""  # anybody may change the variable in Prefect's page
    return f"the yard drains{since}: what runs goes on, what waits starts after the next `yard up`"
