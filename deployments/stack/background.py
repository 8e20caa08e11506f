"""Checks the background services of Prefect's server: schedules, cancels, expiry.

A server may answer while one of them has died, hangs, or fails each time. What they leave undone is seen by REST; what
they print, in the log of a server of this home.
"""

import http.client
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import psutil

from deployments.api import api_url, connect
from deployments.runs.prefect_http import Ask, asking
from deployments.services.service import log_file, server_time
from deployments.stack.service_log import failing
from deployments.stack.stack import stack_record
from deployments.stack.undone import GRACE, undone
from tasks.base.servers.guard import LOOPBACKS


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
            return undone(api.call, server_time(url)) + unguarded(url)
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
    found = [] if _just_woke(record, datetime.now(UTC)) else undone(call, datetime.now(UTC))
    found += unguarded(f"{record['prefect']}/api")
    for program, pid in record.get("pids", {}).items():
        if program.startswith("prefect"):
            found += failing(log_file(program), _started(pid), datetime.now())
    return found


def _just_woke(record: dict[str, Any], now: datetime) -> bool:
    """Return whether the machine slept until a moment ago: the services had no time yet to do what was left undone."""
    return bool(record.get("woke")) and now - datetime.fromisoformat(record["woke"]) < GRACE


def unguarded(api: str) -> list[str]:
    """Return a sentence where a Prefect of this machine answers under a name that any site could make lead here.

    Args:
        api: its address; what a proxy of another machine answers says nothing.
    """
    parts = urlsplit(api)
    if parts.scheme != "http" or parts.hostname not in LOOPBACKS:
        return []
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health", headers={"Host": "other-site.invalid"})
        let_in = connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return []  # said by who looks whether it answers
    finally:
        connection.close()
    how = "start it by `yard up` or `python -m deployments.services.prefect_server server start`"
    return [f"pages of other sites can command Prefect at {api}, which answers to any name: {how}"] if let_in else []


def _started(pid: int) -> datetime:
    try:
        return datetime.fromtimestamp(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return datetime.now()  # it has died, which is said by who looks at servers
