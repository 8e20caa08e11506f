"""Lets people change runs, limits and schedules, and writes each act down: before it, and how it went.

The first line comes before the act, so that no act is unknown, however its process dies. Where the second one is
missing, the act began, and how it ended is not known.
"""

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

from deployments.api import Api
from deployments.sharing.audit_file import Line, append
from deployments.sharing.permissions import NotAllowedError, Target, admins_of, fault
from deployments.stack.stack import ServiceError
from gpu_pools.names import asker, host_name
from tasks.base.errors import ConfigError, StorageError
from tasks.base.workspace import home

EVENT = "trainyard.audit"
"""Prefix of the events in Prefect that tell the others of the yard."""

ASKED, DONE, REFUSED, FAILED = "asked", "done", "refused", "failed"
_LONGEST = 300  # characters of what an error says


@dataclass(frozen=True, slots=True)
class Acts:
    """What one command changes.

    Args:
        api: of the server that is told; None: no server has to do with it.
        force: whether --force was given.
        admins: of the yard.
    """

    api: Api | None
    force: bool
    admins: tuple[str, ...]

    @classmethod
    def of(cls, api: Api | None, *, force: bool = False) -> "Acts":
        """Return those of a command.

        Raises:
            ConfigError: the settings cannot be read.
        """
        return cls(api, force, admins_of(api))

    def fault(self, act: str, target: Target) -> str:
        """Return why the caller may not do it; empty: may."""
        return "" if self.force else fault(act, target, asker(), self.admins)

    @contextmanager
    def act(self, act: str, target: Target, details: str = "") -> Iterator[None]:
        """Do in the block what is said here; it is written down before, and after it how it went.

        Args:
            act: a verb.
            target: what is changed.
            details: to what, without any secret.

        Raises:
            NotAllowedError: the caller may not.
        """
        line: Line = {"id": str(uuid4()), "at": "", "result": "", **_caller()}
        line |= {"act": act, "kind": target.kind, "target": target.id, "name": target.name, "owner": target.owner}
        line |= {"force": self.force, "details": details}
        if why := self.fault(act, target):
            self._leave(line, REFUSED, "")
            raise NotAllowedError(why)
        self._leave(line, ASKED, "")
        try:
            yield
        except BaseException as exc:
            self._leave(line, FAILED, f"{exc}".partition("\n")[0][:_LONGEST] or type(exc).__name__)
            raise
        self._leave(line, DONE, "")

    def _leave(self, line: Line, result: str, said: str) -> None:
        """Write a line into this home's file, where there is a home, and tell the others of the result by an event.

        An act is not kept from happening by a full disk: `yard delete` may be what frees it.
        """
        whole = {**line, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "result": result, "said": said}
        kept = False
        try:
            if home().is_dir():
                append(whole)
                kept = True
        except StorageError as exc:
            print(f"the audit misses a line: {exc}", file=sys.stderr)
        if self.api is not None and (result != ASKED or not kept):
            _tell(self.api, whole)


def _tell(api: Api, line: Line) -> None:
    resource = {"prefect.resource.id": _resource(line), "prefect.resource.name": line["name"]}
    event = {
        "id": str(uuid5(NAMESPACE_OID, f"{line['id']} {line['result']}")),
        "event": f"{EVENT}.{line['act']}",
        "occurred": line["at"],
        "resource": resource,
        "related": [],
        "payload": line,
    }
    try:
        api.call("POST", "/events", [event])
    except (ConfigError, ServiceError) as exc:
        print(f"the others of this yard are not told of it: {exc}", file=sys.stderr)


def _resource(line: Line) -> str:
    kind = {"run": "flow-run"}.get(line["kind"])
    return f"prefect.{kind}.{line['target']}" if kind else f"trainyard.{line['kind']}.{line['target'] or line['name']}"


def _caller() -> dict[str, Any]:
    """Return who acts, and from where: whom TRAINYARD_OWNER names, the account, its host, terminal and SSH client."""
    return {
        "who": asker(),
        "account": _account(),
        "host": host_name(),
        "terminal": _terminal(),
        "client": os.environ.get("SSH_CONNECTION", "").partition(" ")[0],
        "pid": os.getpid(),
    }


def _account() -> str:
    """Return the account whose process this is, and behind sudo, whose terminal."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())  # a container's user without a name
    behind = os.environ.get("SUDO_USER", "")
    return f"{name}, sudo by {behind}" if behind else name


def _terminal() -> str:
    for fd in (0, 1, 2):
        with suppress(OSError):
            return os.ttyname(fd)
    return ""
