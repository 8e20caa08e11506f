"""Sends a file or folder to another yard in parts, and goes on where it was cut off.

It does not stand on `tasks.store`, which sends files by their content, too. A yard of an earlier version looks for the
parts of an MLflow run, so both ways would have to stay. Parts belong to that run: they go when the inbox has them, when
seven days are over, or with the run on MLflow's page, where an object of the store goes only after a look at all names.
MLflow lets those write a part who may change the run; for a path of no experiment all accounts have one permission.
And the sender may be a stranger: one stream, a TAR with its links, is bounded by one manifest before a byte is fetched.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.inbox.mlflow_http import MlflowHttp
from deployments.inbox.parcel import MANIFEST, Manifest, cut
from deployments.services.service import ServiceError
from tasks.base.errors import ConfigError, DatasetError
from tasks.base.servers.password import CLIENT, password

SENDING, SENT, TAKEN, REFUSED = "sending", "sent", "taken", "rejected"
"""States of an upload, in its tag: the first two are set by who sends, the others by the yard."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_WAIT_S = 600.0


def send(
    mlflow: MlflowHttp, path: Path, manifest: Manifest, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """Send what the yard lacks of a file or folder, and return the upload.

    Args:
        mlflow: of the yard.
        path: of the file or folder.
        manifest: of it.
        progress: is called with the bytes that are there, of all.

    Raises:
        DatasetError: it has changed since the manifest.
        ConfigError: MLflow refuses.
        ServiceError: MLflow does not answer, for half a minute; called again, it goes on.
    """
    upload = _known(mlflow, manifest) or _begin(mlflow, manifest)
    if upload["tags"]["upload.state"] != SENDING:
        return upload
    there = _again(lambda: mlflow.files(upload["id"], "parts"))
    n_sent = 0
    for number, part in enumerate(cut(path)):
        if number >= len(manifest.parts) or hashlib.sha256(part).hexdigest() != manifest.parts[number]:
            raise DatasetError(f"has changed while it was sent, need a file that nobody writes: {path}")
        if there.get(manifest.file_of(number)) != len(part):
            target = f"parts/{manifest.file_of(number)}"
            _again(lambda target=target, part=part: mlflow.put(upload["id"], target, part))  # type: ignore[misc]
        n_sent += len(part)
        progress(n_sent, manifest.n_bytes)
    if n_sent != manifest.n_bytes:
        raise DatasetError(f"has changed while it was sent, need a file that nobody writes: {path}")
    _again(lambda: mlflow.tag(upload["id"], upload_state=SENT))
    return mlflow.run(upload["id"])


def _known(mlflow: MlflowHttp, manifest: Manifest) -> dict[str, Any] | None:
    """Return an upload of the same that is under way or taken; one that was rejected is begun anew."""
    found = _again(lambda: mlflow.runs(f"tags.`upload.key` = '{manifest.key}'"))
    return next((upload for upload in found if upload["tags"]["upload.state"] != REFUSED), None)


def _begin(mlflow: MlflowHttp, manifest: Manifest) -> dict[str, Any]:
    tags = {
        "upload.key": manifest.key,
        "upload.state": SENDING,
        "upload.flow": manifest.flow,
        "upload.bytes": str(manifest.n_bytes),
        "mlflow.user": manifest.owner,
        "upload.proof": manifest.proof(os.environ.get(CLIENT) or password()),
    }
    body = {
        "experiment_id": mlflow.experiment(),
        "run_name": manifest.name,
        "start_time": int(time.time() * 1000),
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    run_id = str(mlflow.ask("POST", "runs/create", body)["run"]["info"]["run_id"])
    _again(lambda: mlflow.put(run_id, MANIFEST, manifest.as_bytes()))
    return mlflow.run(run_id)


def _again(call: Callable[[], Any]) -> Any:
    """Return what a call returns; one that gets no answer is made again, a few times."""
    for pause in _PAUSES_S:
        try:
            return call()
        except ServiceError:
            time.sleep(pause)
    return call()


def await_run(mlflow: MlflowHttp, upload_id: str, limit_s: float = _WAIT_S) -> str:
    """Return the id of the run that an upload has become.

    Raises:
        DatasetError: the yard has rejected it, with its reason.
        ServiceError: nobody has taken it in that time.
    """
    deadline = time.monotonic() + limit_s
    while True:
        tags = _again(lambda: mlflow.run(upload_id))["tags"]
        if tags["upload.state"] == TAKEN:
            return str(tags["upload.run"])
        if tags["upload.state"] == REFUSED:
            raise DatasetError(f"the yard has rejected it: {tags.get('upload.why', 'it does not say why')}")
        if time.monotonic() > deadline:
            raise ServiceError(f"it is sent, but no inbox took it in {limit_s:.0f} s: `yard status` there says more")
        time.sleep(0.5)


def where(url: str) -> MlflowHttp:
    """Return the MLflow to send to.

    Raises:
        ConfigError: it is no server, but a database of this machine.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"found no MLflow server in {url!r}: set MLFLOW_TRACKING_URI to that of the yard")
    return MlflowHttp(url)
