"""Says whether the hosts of a yard share a disk."""

import os

from tasks.base.errors import ConfigError

SHARED_DISK = "TRAINYARD_SHARED_DISK"
"""no: what runs leave travels through MLflow's artifact store; else all hosts have one home, on a network disk."""

LOST_AFTER = "TRAINYARD_HOST_LOST_AFTER"
"""For how long nothing is heard of a host that shares no disk before its runs go on elsewhere; 5m if unset."""

_WORDS = {"": True, "yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def hosts_share_a_disk() -> bool:
    """Return whether all hosts have the same home.

    Raises:
        ConfigError: the setting has no known word.
    """
    text = os.environ.get(SHARED_DISK, "")
    known = _WORDS.get(text.strip().lower())
    if known is None:
        raise ConfigError(f"found {SHARED_DISK}={text!r}, need yes or no")
    return known
