"""Gives Prefect's server a block and an automation for each recipient of notices."""

from collections.abc import Mapping
from typing import Any

from deployments.runs.prefect_http import Ask, paged
from gpu_pools.sharing.notice_settings import NoticeSettings

BLOCK_TYPE = "yard-notice"
EVENTS = "trainyard."
"""Begins the names of the yard's events: trainyard.run.failed, trainyard.disk-low."""

_TAG = "yard-notices"
_PREFIX = "yard-"


def label(name: str) -> str:
    """Return the label of an event that a recipient is told of."""
    return f"trainyard.to.{name}"


def ensure_channels(call: Ask, settings: NoticeSettings) -> bool:
    """Make what is missing, and remove what is of no recipient any more; one that people have paused stays so.

    Args:
        call: asks Prefect's API.
        settings: with the recipients.

    Returns:
        False: the server does not know the yard's kind of block yet, which `deployments.apply` brings.

    Raises:
        ServiceError: the server does not answer, or refuses.
    """
    blocks = _ensure_blocks(call, settings) if settings.to else {}
    if blocks is None:
        return False
    there = {found["name"]: found for found in paged(call, "/automations/filter", _tagged())}
    wanted = {_title(name): _automation(name, block) for name, block in blocks.items()}
    for title, body in wanted.items():
        if title not in there:
            call("POST", "/automations/", body)
        elif not _same(there[title], body):
            call("PUT", f"/automations/{there[title]['id']}", {**body, "enabled": there[title]["enabled"]})
    for title in there.keys() - wanted.keys():
        call("DELETE", f"/automations/{there[title]['id']}", None)
    return True


def _ensure_blocks(call: Ask, settings: NoticeSettings) -> dict[str, str] | None:
    """Return the id of the block of each recipient; None: there is no such kind of block."""
    found = call("POST", "/block_types/filter", {"block_types": {"slug": {"any_": [BLOCK_TYPE]}}})
    if not found:
        return None
    of_type = {"block_type_id": {"any_": [found[0]["id"]]}}
    schemas = call("POST", "/block_schemas/filter", {"block_schemas": of_type})
    if not schemas:
        return None
    there = {row["name"]: row for row in paged(call, "/block_documents/filter", {"block_documents": of_type})}
    for name in settings.to:
        if _PREFIX + name not in there:
            body = {"name": _PREFIX + name, "data": {"recipient": name}, "block_schema_id": schemas[0]["id"]}
            there[_PREFIX + name] = call("POST", "/block_documents/", {**body, "block_type_id": found[0]["id"]})
    return {name: there[_PREFIX + name]["id"] for name in settings.to}


def _tagged() -> dict[str, Any]:
    return {"automations": {"tags": {"all_": [_TAG]}}}


def _title(name: str) -> str:
    return f"Notices to {name}"


def _automation(name: str, block: str) -> dict[str, Any]:
    return {
        "name": _title(name),
        "description": f"Tells {name} of yard.yaml what happens to runs, devices and the disk; made by `yard up`.",
        "tags": [_TAG],
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": [f"{EVENTS}*"],
            "match": {label(name): "yes"},
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "send-notification",
                "block_document_id": block,
                "subject": "{{ event.payload.subject }}",
                "body": "{{ event.payload | tojson }}",
            }
        ],
    }


def _same(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether an automation is as it has to be, whether it is paused or not."""
    trigger = known["trigger"]
    return (
        known["description"] == wanted["description"]
        and all(trigger.get(key) == value for key, value in wanted["trigger"].items())
        and [{key: action.get(key) for key in wanted["actions"][0]} for action in known["actions"]] == wanted["actions"]
    )
