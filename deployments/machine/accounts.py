"""Finds other accounts of this machine, which can reach its loopback address."""

import os
import pwd
import urllib.error
import urllib.request
from collections.abc import Iterable

from deployments.stack.stack import known_stack
from tasks.base.servers.password import password

_FIRST_UID, _LAST_UID = 1000, 59999  # of people, as Debian and Red Hat give them
_NO_SHELL = {"nologin", "false", "sync", "halt", "shutdown"}
_N_SHOWN = 3


def other_people(entries: Iterable[pwd.struct_passwd] | None = None) -> list[str]:
    """Return the names of the accounts that people log in with, without the one of this process.

    Args:
        entries: of the machine; None: its own, as far as it lists them.
    """
    return [
        entry.pw_name
        for entry in (pwd.getpwall() if entries is None else entries)
        if _FIRST_UID <= entry.pw_uid <= _LAST_UID
        and entry.pw_uid != os.geteuid()
        and entry.pw_shell.rpartition("/")[2] not in _NO_SHELL
    ]


def open_to(people: list[str]) -> str:
    """Return the sentence on who can command the yard of this home, empty where a password keeps them out.

    Args:
        people: with an account on this machine.
    """
    if not people or asks_for_password():
        return ""
    named = ", ".join(people[:_N_SHOWN]) + (", ..." if len(people) > _N_SHOWN else "")
    how = "`yard down` and `yard up`, as its server began before there was a password"
    if not password():
        how = "`yard auth init` makes Prefect and MLflow ask for one"
    return f"whoever has an account here ({named}) can command the yard: {how}"


def asks_for_password() -> bool:
    """Return whether Prefect lets nobody in without a password: the running server is asked, else the home's file."""
    if stack := known_stack():
        try:
            with urllib.request.urlopen(f"{stack['prefect']}/api/admin/version", timeout=2):
                return False
        except urllib.error.HTTPError as exc:
            return exc.code == 401
        except OSError:
            pass  # it does not answer: what its home says
    return password() is not None
