"""Data sets of the store, as people name them in parameters: data:NAME."""

from typing import Any

from deployments.data_sets.transfer_bar import transfer_bar
from tasks.store import places
from tasks.store.arrivals import bring_needs
from tasks.store.datasets import DataSets
from tasks.store.objects import Objects


def with_digests(parameters: dict[str, Any], url: str) -> dict[str, Any]:
    """Return parameters in which every data set is named with its digest, so that a run that starts again has the same.

    Args:
        parameters: as JSON.
        url: of MLflow's server.

    Raises:
        ConfigError: there is no such data set.
        TransferError: MLflow does not answer, or refuses.
    """
    if not (named := places.needs(parameters).data):
        return parameters
    with Objects(url) as objects:
        found = {address: DataSets(objects).find(address).address for address in sorted(named)}
    return dict(places.renamed(parameters, found))


def brought(parameters: dict[str, Any], url: str) -> dict[str, Any]:
    """Return parameters in which every data set is a folder of this machine, brought here unless it is here.

    Raises:
        ConfigError, TransferError: as `with_digests`.
        StorageError: something is missing or damaged in the store, or the disk refuses.
    """
    if not (named := places.needs(parameters).data):
        return parameters
    with Objects(url) as objects, transfer_bar("brings data") as moved:
        arrived = bring_needs(objects, places.Needs(data=named), lambda what, done, total: moved(done, total))
    return dict(places.renamed(parameters, arrived.data))
