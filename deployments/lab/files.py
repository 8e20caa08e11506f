"""A lab's bucket, and how the files of this home's runs get into it; cut off, that goes on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.lab.config import FilesConfig
from tasks.base.errors import ConfigError, StorageError

_DIGEST = "sha256"
_PATIENCE_S = 5


def s3_client(config: FilesConfig) -> Any:
    """Return a client of the bucket's server.

    Raises:
        ConfigError: the package is missing.
    """
    try:
        import boto3
        import botocore.config
    except ImportError as exc:
        raise ConfigError("found no package boto3, need it for files in S3: install the extra `lab`") from exc
    name, secret = config.key or (None, None)
    patience = {"connect_timeout": _PATIENCE_S, "read_timeout": 4 * _PATIENCE_S, "retries": {"total_max_attempts": 1}}
    return boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        aws_access_key_id=name,
        aws_secret_access_key=secret,
        region_name=config.region,
        config=botocore.config.Config(**patience),
    )


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
