"""Makes a run of an item of the inbox: `python -m deployments.inbox.take KEY`.

A process of its own, so that an archive that takes all memory ends it and nothing else. Killed at any point, it is
called again, and goes on.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.api import Api, NotFoundError, connect
from deployments.inbox.archives import is_archive, unpack
from deployments.inbox.places import Item, data_of, done, read_item, reject, sync_folder, taking, write_item
from deployments.inbox.settling import why_not
from deployments.services.service import ServiceError
from gpu_pools.project_flows import full_names
from tasks.base.config import read_parameters
from tasks.base.errors import ConfigError, DatasetError, StorageError, TrainyardError
from tasks.base.workspace import allowed_path, storage_errors

WAITS = 75
"""Exit code: something outside the item is in the way; the reason is in its record."""

MAX_ATTEMPTS = 5
_MOST_MEMORY = 8 << 30
_N_SHOWN = 5


def take(key: str) -> bool:
    """Bring an item on its way to its end; return whether it is there: it has a run, or was rejected.

    Raises:
        StorageError: its record cannot be read or written.
    """
    folder = taking(key) if taking(key).is_dir() else done(key)
    item = read_item(folder)
    if item is None or item.state == "submitted":
        return True
    if item.state == "rejected":  # killed before it was moved
        reject(folder, item, item.trouble)
        return True
    if item.attempts >= MAX_ATTEMPTS:
        reject(folder, item, f"its taking has ended {item.attempts} times without a word, as one does without memory")
        return True
    item = replace(item, attempts=item.attempts + 1, trouble="")
    write_item(folder, item)
    try:
        folder = _prepared(folder, item)
        run = _submit(folder, item)
    except (ServiceError, StorageError) as exc:  # neither is the item's fault
        write_item(folder, replace(item, attempts=item.attempts - 1, trouble=str(exc)))
        return False
    except TrainyardError as exc:
        folder = done(key) if done(key).is_dir() else folder
        reject(folder, item, str(exc).replace(f"{folder}/data/", "").replace(f"{folder}/", ""))
        return True
    write_item(folder, replace(item, state="submitted", run=run))
    return True


def _prepared(folder: Path, item: Item) -> Path:
    """Return the folder in its last place, the data in it as the run will find them.

    Raises:
        DatasetError: the data hold what must not become part of a run, or the archive is damaged.
        StorageError: the disk is full.
    """
    if folder == done(item.key):
        return folder
    data = data_of(folder, item)
    if faults := why_not(data):
        shown = "; ".join(f"{name}: {why}" for name, why in list(faults.items())[:_N_SHOWN])
        raise DatasetError(f"{item.name} holds {shown}{' ...' if len(faults) > _N_SHOWN else ''}")
    if data.is_file() and is_archive(item.name):
        with _little_memory():
            unpack(data, folder / "unpacked")
    with storage_errors(done()):
        folder.rename(done(item.key))
    sync_folder(done())
    return done(item.key)


def run_data(folder: Path, item: Item) -> Path:
    """Return what the run of an item reads: the file, the folder, or what an archive holds below its one folder."""
    place = folder / "unpacked"
    if not place.is_dir():
        return data_of(folder, item)
    while len(inner := [path for path in place.iterdir() if not path.name.startswith((".", "__MACOSX"))]) == 1:
        (place,) = inner
        if not place.is_dir():
            break
    return place


def _submit(folder: Path, item: Item) -> str:
    """Ask the server for the run and return its id; asked twice, it makes one.

    Raises:
        ConfigError: the flow takes no data, or does not take these parameters.
        ServiceError: the server does not answer, or has no deployment yet.
    """
    from deployments.runs.flow_list import load_flow
    from deployments.runs.local import data_parameter
    from deployments.runs.submit import Wishes, prepare, submit

    section = data_parameter(load_flow(item.flow))
    if section is None:
        raise ConfigError(f"the flow {item.flow} takes no data: need one of those that do")
    parameters: dict[str, Any] = read_parameters(folder / item.yaml_name) if item.yaml_name else {}
    if section in parameters:
        raise ConfigError(f"found {section} in {item.yaml_name}: it is what lies beside the file, leave it out")
    parameters[section] = str(allowed_path(run_data(folder, item)))
    with _server() as api:
        _await_deployment(api, item.flow)
        order = prepare(api, item.flow, parameters, Wishes(name=item.key, owner=item.owner))
        return str(submit(api, order, key=item.key)["id"])


@contextmanager
def _server() -> Iterator[Api]:
    try:
        with connect() as api:
            yield api
    except NotFoundError as exc:
        raise ServiceError(str(exc)) from exc


def _await_deployment(api: Api, flow: str) -> None:
    """Raise a ServiceError where the server has no deployment of a flow: `yard up` makes them after its start."""
    for name in full_names(flow):
        try:
            api.call("GET", f"/deployments/name/{name}")
        except NotFoundError:
            continue
        return
    raise ServiceError(f"found no deployment of {flow} at {api.url} yet")


@contextmanager
def _little_memory() -> Iterator[None]:
    """Bound the memory of this process for the block: a directory of millions of entries fills any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MOST_MEMORY if hard == resource.RLIM_INFINITY else min(_MOST_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> None:
    """Take one item; exit code 0: it is at its end, 75: it waits, else it is to be tried again."""
    (key,) = sys.argv[1:]
    sys.exit(0 if take(key) else WAITS)


if __name__ == "__main__":
    main()
