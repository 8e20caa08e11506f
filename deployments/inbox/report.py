"""Says what waits in the inbox, what is being taken, and what was rejected lately."""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from deployments.inbox.places import inbox, items, read_view, rejected

_LATELY_S = 24 * 3600.0
_N_SHOWN = 10


def inbox_report() -> dict[str, Any]:
    """Return the inbox of this home as `yard status --json` has it; empty where there is none.

    Raises:
        StorageError: one of its records is damaged.
    """
    if not inbox().is_dir():
        return {}
    since = time.time() - _LATELY_S
    paths = rejected().iterdir() if rejected().is_dir() else ()
    recent = {path.name for path in paths if path.stat().st_mtime > since}
    refused = [item for path, item in items(rejected()) if path.name in recent]
    return {
        "place": str(inbox()),
        "waiting": [],
        "taking": [],
        **read_view(),
        "rejected": [
            {
                "flow": one.flow,
                "name": one.name,
                "at": one.taken_at,
                "why": "; ".join(one.trouble.splitlines()),
                "place": str(rejected(one.key)),
            }
            for one in sorted(refused, key=lambda item: item.taken_at)
        ],
    }


def inbox_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the inbox as `yard status` prints it."""
    if not report:
        return
    counts = f"{len(report['waiting'])} waiting, {len(report['taking'])} being taken"
    yield f"{'inbox':<10}{report['place']}: {counts}, {len(report['rejected'])} rejected in the last day"
    for kind in ("waiting", "taking"):
        for one in report[kind][:_N_SHOWN]:
            yield f"{'':<10}{one['flow']}/{one['name']}: {one['why'] or 'is being taken'}"
    for one in report["rejected"][-_N_SHOWN:]:
        at = datetime.fromtimestamp(one["at"])
        yield f"{'':<10}{one['flow']}/{one['name']} rejected at {at:%Y-%m-%d %H:%M}: {one['why']} (in {one['place']})"
