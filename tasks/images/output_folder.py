"""Checks the folder that a person names for results, and fills it whole or not at all."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.base.errors import ConfigError
from tasks.base.workspace import allowed_path, read_step_info, staged, storage_errors


def check_output(output: Path, data: Path, run: str) -> Path:
    """Return the folder resolved.

    Args:
        output: missing, empty, or filled by the same run before it was started again.
        data: what is read.
        run: what calls itself so in made_with.json is the same run.

    Raises:
        ConfigError: it leads outside the allowed roots, holds something, or lies in the data or around it.
    """
    target, source = allowed_path(output), data.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise ConfigError(f"found the output {target} and the data {source} inside each other, need them apart")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"found a file at {target}, need a folder that is missing or empty")
    if target.is_dir() and any(target.iterdir()) and read_step_info(target).get("run") != run:
        raise ConfigError(f"found something in {target}, need a folder that is missing or empty")
    return target


@contextmanager
def filling(target: Path, run: str) -> Iterator[Path]:
    """Yield a hidden folder beside `target` that takes its place when the block ends well.

    What was put into `target` meanwhile stays: the system renames a folder to an empty one only.

    Raises:
        ConfigError: there was something; says where the result lies.
        StorageError: the folder cannot be written.
    """
    hidden = target.with_name(f".{target.name}-{run}")
    with staged(hidden) as folder:
        yield folder
    with storage_errors(target):
        try:
            hidden.rename(target)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
            raise ConfigError(f"something came into {target} meanwhile; what was made lies in {hidden}") from exc
