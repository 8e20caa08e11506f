"""Who else has an account on this machine, and so gets at what listens on its loopback address."""

import os
import pwd
from collections.abc import Iterable

from tasks.password import password

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
    if not people or password():
        return ""
    named = ", ".join(people[:_N_SHOWN]) + (", ..." if len(people) > _N_SHOWN else "")
    return f"whoever has an account here ({named}) can command the yard: `yard up --password` makes Prefect ask for one"
