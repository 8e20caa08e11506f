"""Removes data sets from the store, unless a run that has not ended names them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.api import Api
from deployments.runs.find import RUNNING, WAITING
from deployments.sharing.acts import Acts
from deployments.sharing.permissions import Target
from gpu_pools.names import asker, short_id
from tasks.base.errors import ConfigError
from tasks.store import places
from tasks.store.datasets import DataSets
from tasks.store.objects import Objects
from tasks.store.pointers import Pointer
from tasks.store.removal import Removed

_SHOWN = 3  # runs that are named in a refusal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was removed; resumed: a removal of the name that was cut off before, and nothing else."""

    address: str
    removed: Removed
    resumed: bool = False


def remove(api: Api, objects: Objects, address: str, *, force: bool) -> Outcome:
    """Remove a data set under its name, or one version of it.

    Args:
        api: of the server, whose runs are looked at.
        objects: the store.
        address: NAME, data:NAME or data:NAME@DIGEST.
        force: somebody else's, too.

    Raises:
        ConfigError: there is none, or a run that waits or runs names it.
        NotAllowedError: it is somebody else's.
        TransferError: MLflow does not answer, or refuses; the same command goes on.
        StorageError: a manifest of the store is damaged.
    """
    sets, asked = DataSets(objects), address if places.is_data_set(address) else f"data:{address}"
    finished = sets.finish_removals()
    try:
        gone = sets.pointers(asked)
    except ConfigError:
        for other in finished:
            if other.removed is not None and asked.partition(":")[2] in other.names:
                return Outcome(asked, other.removed, resumed=True)
        raise
    unread = _Readers(api, gone, stands=sets.versions(gone[0].name)[0]).need_none
    unread()
    with Acts.of(api, force=force).act("remove", Target("data set", "", asked, sets.owner(gone[0]))):
        return Outcome(asked, sets.remove(gone, unread))


def clean(api: Api, objects: Objects) -> dict[str, int]:
    """Remove what no data set needs; return the bytes of each object.

    Raises:
        TransferError: MLflow does not answer, or refuses; the same command goes on.
        StorageError: a manifest of the store is damaged.
    """
    with Acts.of(api, force=False).act("clean", Target("data sets", "", "the store", asker())):
        return DataSets(objects).clean()


class _Readers:
    """The runs that need data sets which are to go.

    Args:
        api: of the server.
        gone: versions of one name.
        stands: what the bare name stands for.
    """

    def __init__(self, api: Api, gone: Sequence[Pointer], stands: Pointer) -> None:
        self._api, self._name = api, gone[0].name
        self._digests = {pointer.digest for pointer in gone}
        self._bare = stands.digest in self._digests

    def need_none(self) -> None:
        """Pass where no run that waits or runs needs any of them.

        Raises:
            ConfigError: some do; says which.
        """
        living = {"flow_runs": {"state": {"type": {"any_": [*WAITING, *RUNNING]}}}}
        found = [run for run in self._api.pages("/flow_runs/filter", living) if self._reads(run["parameters"] or {})]
        if found:
            named = ", ".join(f"{short_id(run['id'])} ({run['name']}, {run['state_name']})" for run in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ConfigError(
                f"found runs that need data:{self._name}: {named}{more}; need them at their end: wait, or `yard cancel`"
            )

    def _reads(self, parameters: Mapping[str, Any]) -> bool:
        needs = places.needs(parameters)
        return bool(needs.digests & self._digests) or any(map(self._means, needs.data))

    def _means(self, address: str) -> bool:
        asked = places.DATA.fullmatch(address)
        if asked is None or asked["name"] != self._name:
            return False
        if asked["digest"] is None:
            return self._bare
        return any(digest.startswith(asked["digest"]) for digest in self._digests)
