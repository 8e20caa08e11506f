"""Says who may change what: runs their owners, the yard its admins.

A courtesy among people who share one password: whoever has that can do all of it in Prefect itself, and with `--force`
here. It keeps people from hitting somebody else's run by mistake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.api import Api, NotFoundError
from gpu_pools.names import ADMINS_VARIABLE, NOBODY, OWNER_LABEL, is_called, named_owner
from gpu_pools.sharing.settings import read_settings, settings_path
from tasks.base.errors import ConfigError

ME = "me"
"""Instead of a name: who asks."""


class NotAllowedError(ConfigError):
    """Somebody else's run, or the yard's; says whose, who may, and that --force does it all the same."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is changed.

    Args:
        kind: run, device, schedule ...
        id: by which commands take it; empty for what has only a name.
        name: as people know it.
        owner: user@host; empty: nobody's.
        shared: the yard's, so that its admins decide, where it has any; else its owner does.
    """

    kind: str
    id: str
    name: str
    owner: str = ""
    shared: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.id} ({self.name})" if self.id else f"{self.kind} {self.name}"


def run_target(run: Mapping[str, Any]) -> Target:
    """Return a run as what is changed."""
    return Target("run", run["id"], run["name"], run_owner(run))


def run_owner(run: Mapping[str, Any]) -> str:
    """Return whom a run belongs to; empty: nobody said it."""
    label = (run.get("labels") or {}).get(OWNER_LABEL, "")
    return named_owner(run["job_variables"] or {}, run["parameters"] or {}) or str(label)


def is_same(one: str, other: str) -> bool:
    """Return whether two owners are one person: the same user name, on whatever host."""
    return bool(one) and one.partition("@")[0] == other.partition("@")[0]


def admins_of(api: Api | None) -> tuple[str, ...]:
    """Return the admins: as this home's yard.yaml names them; without one, as the server's yard has said at its start.

    Raises:
        ConfigError: the settings cannot be read.
    """
    if settings_path().exists() or api is None:
        return read_settings().admins
    try:
        told = api.call("GET", f"/variables/name/{ADMINS_VARIABLE}")["value"]
    except NotFoundError:  # of a yard without any, or of before
        return ()
    if not isinstance(told, list):
        raise ConfigError(f"found {told!r:.100} in Prefect's variable {ADMINS_VARIABLE}, need a list of names")
    return tuple(map(str, told))


def fault(act: str, target: Target, who: str, admins: Sequence[str]) -> str:
    """Return why somebody may not change something without --force; empty: may.

    What belongs to nobody anybody may change, because nobody can tell who asked in Prefect's page. The same holds for
    what belongs to the yard, where the yard names no admins.

    Args:
        act: what is asked for, as `cancel`.
        target: what it is asked for.
        who: asks.
        admins: of the yard.
    """
    owned = target.owner and target.owner not in NOBODY
    if any(is_called(who, name) for name in admins) or (owned and is_same(who, target.owner)):
        return ""
    if not owned and not (target.shared and admins):
        return ""
    those = f"the yard's admins ({', '.join(admins)})" if admins else ""
    whose = f"belongs to {target.owner}" if owned else "belongs to the yard"
    may = " and ".join(filter(None, ["its owner" if owned else "", those]))
    return f"{target} {whose}: only {may} may {act} it, and you are {who}; --force does it all the same, and is noted"
