"""Whether the services behind Prefect's server work: those that schedule, watch, expire, cancel, keep and remove.

A server may answer while one of them has died, hangs, or fails each time. What they leave undone is seen by REST; what
they print, in the log of a server of this home.
"""

import os
from datetime import UTC, datetime
from typing import Any

import psutil

from deployments.api import api_url, connect
from deployments.queries import Ask, asking
from deployments.service_log import failing
from deployments.services import log_file, server_time
from deployments.stack import stack_record
from deployments.undone import undone


def named_server(record: dict[str, Any]) -> str | None:
    """Return the API that PREFECT_API_URL names, None where there is none or it is that of this home's stack.

    Args:
        record: of this home's stack.
    """
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    ours = f"{record['prefect']}/api" if record else ""
    return url if url and url.replace("//localhost:", "//127.0.0.1:") != ours else None


def background_faults() -> list[str]:
    """Return a sentence for each service that does not work, behind the server that the commands of `yard` ask.

    Raises:
        ConfigError: there is no server.
        ServiceError: it does not answer.
        StorageError: the file that says where this home's stack is, is damaged.
    """
    record = stack_record()
    if url := named_server(record):
        with connect() as api:
            return undone(api.call, server_time(url))
    with asking(api_url()) as call:
        return local_faults(record, call)


def local_faults(record: dict[str, Any], call: Ask) -> list[str]:
    """Return a sentence for each service that does not work, behind the server of this home.

    Args:
        record: of its stack.
        call: asks Prefect's API.

    Raises:
        ServiceError: the server does not answer.
    """
    found = undone(call, datetime.now(UTC))
    for program, pid in record.get("pids", {}).items():
        if program.startswith("prefect"):
            found += failing(log_file(program), _started(pid), datetime.now())
    return found


def _started(pid: int) -> datetime:
    try:
        return datetime.fromtimestamp(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return datetime.now()  # it has died, which is said by who looks at servers
