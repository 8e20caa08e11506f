"""Fetches what was sent to this yard: `python -m deployments.inbox.arriving UPLOAD`.

Its key is made of the upload's id, so that one that was cut off, or is seen twice, becomes one item and one run.
"""

import hashlib
import hmac
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from deployments.inbox.archives import unpack
from deployments.inbox.mlflow_http import MlflowHttp
from deployments.inbox.parcel import MANIFEST, MANIFEST_BYTES, PART_BYTES, Manifest, read_manifest
from deployments.inbox.places import (
    Item,
    data_of,
    done,
    fetching,
    key_of,
    read_item,
    reject,
    rejected,
    taking,
    write_item,
)
from deployments.inbox.uploading import REFUSED, SENDING, SENT, TAKEN
from deployments.runs.flow_list import entrypoints
from deployments.services.service import ServiceError
from gpu_pools.periodic import Periodic
from tasks.base.errors import ConfigError, DatasetError, StorageError, TrainyardError
from tasks.base.servers.password import CLIENT, password
from tasks.base.workspace import home, storage_errors, write_atomic

logger = logging.getLogger("trainyard.inbox")

_LEFT_BYTES = 1 << 30
_UNFINISHED_S = 7 * 24 * 3600
_STATE = f"tags.`upload.state` = '{SENT}'"


class Arrivals:
    """Call `turn` every few seconds.

    Args:
        url: of MLflow's server; empty where there is none, and so nothing can arrive.
        fetch: brings the upload of an id into a folder of its own.
    """

    def __init__(self, url: str, fetch: Callable[[str], None]) -> None:
        self._mlflow = MlflowHttp(url) if url.startswith(("http://", "https://")) else None
        self._fetch = fetch
        self._give_up = Periodic(self._give_up_old, 3600.0, time.monotonic)

    def turn(self) -> None:
        """Fetch what was sent, and tell who has sent it what has become of it; what fails is done the next time."""
        if self._mlflow is None:
            return
        try:
            for upload in sorted(self._mlflow.runs(_STATE), key=lambda upload: int(upload["start_time"])):
                key = upload_key(upload)
                if not any(folder.is_dir() for folder in (taking(key), done(key), rejected(key))):
                    self._fetch(upload["id"])
                report_back(self._mlflow, upload, key)
            self._give_up()
        except (ServiceError, ConfigError) as exc:
            logger.debug("cannot ask for uploads: %s", exc)

    def _give_up_old(self) -> None:
        """Reject uploads that were begun long ago and never ended, and free the room of their parts."""
        assert self._mlflow is not None
        begun = int((time.time() - _UNFINISHED_S) * 1000)
        for upload in self._mlflow.runs(f"tags.`upload.state` = '{SENDING}' and attributes.start_time < {begun}"):
            _end(self._mlflow, upload, "FAILED", upload_why="was not finished in seven days", upload_state=REFUSED)


def upload_key(upload: dict[str, Any]) -> str:
    """Return the key of the item that an upload becomes."""
    flow = str(upload["tags"].get("upload.flow", ""))
    return key_of(flow if flow in entrypoints() else "unknown", upload["name"], upload["id"][:8])


def fetch(mlflow: MlflowHttp, upload: dict[str, Any]) -> str:
    """Bring an upload into a folder of its own, as something that was taken, and return its key.

    Raises:
        ServiceError: MLflow does not answer.
        StorageError: the disk is full.
    """
    key = upload_key(upload)
    folder = fetching(key)
    item = Item(
        key=key,
        flow=str(upload["tags"].get("upload.flow", "")),
        name=upload["name"],
        owner=str(upload["tags"].get("mlflow.user", "")),
        yaml_name="",
        signature="",
        upload=upload["id"],
        taken_at=time.time(),
    )
    with storage_errors(folder):
        (folder / "data").mkdir(parents=True, exist_ok=True)
    try:
        item = _filled(mlflow, folder, item, str(upload["tags"].get("upload.proof", "")))
    except (DatasetError, ConfigError) as exc:
        reject(folder, item, str(exc))
        return key
    write_item(folder, item)
    folder.rename(taking(key))
    return key


def _check_proof(manifest: Manifest, proof: str) -> None:
    """Refuse what does not show that its sender knows the yard's password, where there is one: MLflow asks for none."""
    known = password()
    if known and not hmac.compare_digest(proof.encode(), manifest.proof(known).encode()):
        raise ConfigError(f"found an upload without the yard's password: set {CLIENT} where it is sent")


def _filled(mlflow: MlflowHttp, folder: Path, item: Item, proof: str) -> Item:
    """Fetch data and parameters; return the record with what the manifest says."""
    manifest = read_manifest(mlflow.get(item.upload, MANIFEST, MANIFEST_BYTES))
    _check_proof(manifest, proof)
    if manifest.flow not in entrypoints() or manifest.flow != item.flow:
        raise ConfigError(f"found no flow {manifest.flow[:100]!r}, have: {', '.join(sorted(entrypoints()))}")
    parcel = folder / ("parcel.tar" if manifest.kind == "folder" else "parcel")
    _assemble(mlflow, item.upload, manifest, parcel)
    yaml_name = "parameters.yaml" if manifest.parameters else ""
    item = replace(item, name=manifest.name, owner=manifest.owner, yaml_name=yaml_name)
    if yaml_name:
        text = yaml.safe_dump(manifest.parameters, allow_unicode=True, sort_keys=False)
        write_atomic(folder / yaml_name, text.encode())
    if manifest.kind == "folder":
        unpack(parcel, data_of(folder, item))
        parcel.unlink()
    else:
        parcel.rename(data_of(folder, item))
    return item


def _assemble(mlflow: MlflowHttp, upload: str, manifest: Manifest, parcel: Path) -> None:
    """Write the parts one after the other, each held against its digest; whole parts that are there stay."""
    with storage_errors(parcel):
        with parcel.open("a+b") as file:
            n_there = _n_good(file, manifest)
            file.truncate(n_there * PART_BYTES)
            left = manifest.n_bytes - n_there * PART_BYTES
            if (free := shutil.disk_usage(parcel.parent).free) < left + _LEFT_BYTES:
                raise StorageError(
                    f"disk full: found {free} bytes free at {home()}, need {left + _LEFT_BYTES}: free room"
                )
            for number in range(n_there, len(manifest.parts)):
                size, name = manifest.size_of(number), manifest.file_of(number)
                part = mlflow.get(upload, f"parts/{name}", size + 1)
                if len(part) != size or hashlib.sha256(part).hexdigest() != manifest.parts[number]:
                    raise DatasetError(f"part {number + 1} of {len(manifest.parts)} has arrived damaged: send it again")
                file.write(part)
            file.flush()
            os.fsync(file.fileno())


def _n_good(file: Any, manifest: Manifest) -> int:
    """Return how many parts an earlier attempt has left whole."""
    file.seek(0)
    for number, digest in enumerate(manifest.parts):
        if hashlib.sha256(file.read(PART_BYTES)).hexdigest() != digest:
            return number
    return len(manifest.parts) - 1  # the last one again: a shorter one ends the file


def report_back(mlflow: MlflowHttp, upload: dict[str, Any], key: str) -> None:
    """Tell who has sent it what has become of an upload, once that is known, and free the room of its parts.

    Raises:
        ServiceError: MLflow does not answer; to be called again.
    """
    folder = next((folder for folder in (done(key), rejected(key)) if folder.is_dir()), None)
    item = read_item(folder) if folder else None
    if item is None or item.state == "taken":
        return
    if item.state == "submitted":
        _end(mlflow, upload, "FINISHED", upload_run=item.run, upload_state=TAKEN)
    else:
        _end(mlflow, upload, "FAILED", upload_why=item.trouble, upload_state=REFUSED)


def _end(mlflow: MlflowHttp, upload: dict[str, Any], status: str, **tags: str) -> None:
    body = {"run_id": upload["id"], "status": status, "end_time": int(time.time() * 1000)}
    mlflow.ask("POST", "runs/update", body)
    mlflow.tag(upload["id"], **tags)  # the state last: it is what is looked for
    _free(upload)


def _free(upload: dict[str, Any]) -> None:
    """Remove the parts where they lie in this home: the data are in the inbox by now."""
    parts = Path(urlsplit(upload["artifact_uri"]).path) / "parts"
    if upload["artifact_uri"].startswith(("/", "file:")) and parts.resolve().is_relative_to(
        home().resolve() / "mlflow"
    ):
        shutil.rmtree(parts, ignore_errors=True)  # what stays goes with the run


def main() -> None:
    """Fetch one upload; what is in the way is printed, and it is tried again."""
    mlflow = MlflowHttp(os.environ["MLFLOW_TRACKING_URI"])
    try:
        fetch(mlflow, mlflow.run(sys.argv[1]))
    except (ServiceError, StorageError) as exc:
        sys.exit(f"upload {sys.argv[1]} waits: {exc}")
    except TrainyardError as exc:
        sys.exit(f"error: {exc}")


if __name__ == "__main__":
    main()
