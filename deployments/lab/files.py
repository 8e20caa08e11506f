"""Sends the files of this home's runs into a lab's bucket; cut off, it goes on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.lab.checks import s3_client
from deployments.lab.config import FilesConfig
from tasks.base.errors import StorageError

_DIGEST = "sha256"


@dataclass(frozen=True, slots=True)
class Sent:
    """Files and bytes that are in the bucket, and how many of the files were there before."""

    n_files: int
    n_bytes: int
    n_before: int


def send_files(config: FilesConfig, folder: Path, say: Callable[[str], None]) -> Sent:
    """Have every file below a folder in the bucket, under its path in the folder, by digest.

    Raises:
        StorageError: the bucket does not take one.
    """
    import botocore.exceptions

    store = s3_client(config)
    n_files = n_bytes = n_before = 0
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            key = "/".join(filter(None, [config.prefix, path.relative_to(folder).as_posix()]))
            n_before += _send(store, config.bucket, key, path)
            n_files, n_bytes = n_files + 1, n_bytes + path.stat().st_size
            if n_files % 500 == 0:
                say(f"{n_files} files, {n_bytes / 1e6:.0f} MB")
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as exc:
        raise StorageError(f"{config.place} does not take {path}: {exc}; the same command goes on") from exc
    return Sent(n_files, n_bytes, n_before)


def _send(store: Any, bucket: str, key: str, path: Path) -> bool:
    """Have a file in the bucket; return whether it was there."""
    import botocore.exceptions

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, _DIGEST).hexdigest()
    try:
        there = store.head_object(Bucket=bucket, Key=key)
        if there["Metadata"].get(_DIGEST) == digest and there["ContentLength"] == path.stat().st_size:
            return True
    except botocore.exceptions.ClientError as exc:
        if exc.response["Error"]["Code"] not in {"404", "NoSuchKey"}:
            raise
    store.upload_file(str(path), bucket, key, ExtraArgs={"Metadata": {_DIGEST: digest}})
    return False
