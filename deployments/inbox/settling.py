"""Finds what was dropped into the inbox, and says whether it has settled."""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from deployments.inbox.places import stem_of
from tasks.base.processes import is_written

YAML = (".yaml", ".yml")

_TEMPORARY = re.compile(
    r"^\..+\.[A-Za-z0-9]{6}$"  # rsync's own, beside the file it makes
    r"|^\.~tmp~$"  # rsync --delay-updates
    r"|\.(part|partial|filepart|crdownload|download|tmp|swp)$"  # browsers, WinSCP, curl, editors
    r"|~$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Found:
    """Something in a flow's folder.

    Args:
        path: of the file or folder.
        yaml: its parameters, None: it has none.
        why: it cannot be taken now; empty: it can.
        signature: changes with it.
        bad: it will never be one: the reason; empty: it may.
    """

    path: Path
    yaml: Path | None
    why: str
    signature: str
    bad: str = ""


def signature(path: Path) -> str:
    """Return a text that changes with names, sizes, times and kinds of a file, or of all in a folder.

    Raises:
        OSError: something in it cannot be looked at.
    """
    digest = blake2b(digest_size=16)
    for name, status in _walk(path, ""):
        fields = (name, status.st_size, status.st_mtime_ns, status.st_ino, stat.S_IFMT(status.st_mode))
        digest.update(repr(fields).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _walk(path: Path, name: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all in a folder, links not followed, in an order of names."""
    status = path.lstat()
    yield name, status
    if stat.S_ISDIR(status.st_mode):
        for inner in sorted(os.listdir(path)):
            yield from _walk(path / inner, f"{name}/{inner}")


def is_temporary(name: str) -> bool:
    """Return whether a program that copies uses such a name until it has ended."""
    return bool(_TEMPORARY.search(name))


def _unfinished(path: Path) -> str:
    """Return the name of a copy in a folder that has not ended; empty: there is none."""
    for name, _ in _walk(path, ""):
        if is_temporary(name.rpartition("/")[2]):
            return name.lstrip("/")
    return ""


def yaml_of(path: Path, names: Sequence[str]) -> tuple[list[str], str]:
    """Return the names of the YAML files beside something, and what is wrong with them; empty: nothing.

    Args:
        path: of the file or folder.
        names: of all in its folder.
    """
    mine = [f"{stem}{suffix}" for stem in {path.name: 0, stem_of(path.name): 0} for suffix in YAML]
    found = [name for name in mine if name in names]
    if len(found) > 1:
        return found, f"found {' and '.join(found)} beside it, need one file of parameters"
    twins = [
        name for name in names if name != path.name and not name.endswith(YAML) and stem_of(name) == stem_of(path.name)
    ]
    if found and twins and not found[0].startswith(path.name):
        return [], f"found {found[0]} beside it and {twins[0]}: call it {path.name}.yaml, so that it belongs to one"
    return found, ""


class Settling:
    """What lies in the folders, and since when it looks as it does.

    Args:
        settle_s: so long nothing of it must have changed, seconds.
        clock: seconds; not of the files, whose times another host may have set.
    """

    def __init__(self, settle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle_s, self._clock = settle_s, clock
        self._since: dict[Path, tuple[str, float]] = {}

    def look(self, folders: Sequence[Path]) -> list[Found]:
        """Return all that lies in the folders, each as it is now."""
        found = [self._judge(path, names) for folder in folders for path, names in _dropped(folder)]
        known = {one.path for one in found}
        self._since = {path: seen for path, seen in self._since.items() if path in known}
        return found

    def _judge(self, path: Path, names: Sequence[str]) -> Found:
        yamls, bad = yaml_of(path, names)
        yaml = path.with_name(yamls[0]) if len(yamls) == 1 else None
        try:
            mark = signature(path) + (signature(yaml) if yaml else "")
            is_empty = _is_empty(path)
            part = _unfinished(path)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError):
                return Found(path, yaml, "is just changing", "")
            return Found(path, yaml, f"cannot be read, {exc.strerror}: {exc.filename}", "")
        now = self._clock()
        before, since = self._since.get(path, ("", now))
        if before != mark:
            self._since[path] = mark, now
            return Found(path, yaml, "is still being copied, or has just been", mark)
        if now - since < self._settle_s:
            return Found(path, yaml, "has just been copied", mark)
        if part:
            return Found(path, yaml, f"holds a copy that has not ended: {part}", mark)
        if is_written(path.resolve()) or (yaml and is_written(yaml.resolve())):
            return Found(path, yaml, "a process has it open to write", mark)
        return Found(path, yaml, "", mark, bad or ("is empty" if is_empty else ""))


def _is_empty(path: Path) -> bool:
    status = path.lstat()
    return (
        not any(path.iterdir()) if stat.S_ISDIR(status.st_mode) else stat.S_ISREG(status.st_mode) and not status.st_size
    )


def _dropped(folder: Path) -> Iterator[tuple[Path, Sequence[str]]]:
    """Yield what may become a run, with all names beside it; copies under way and files of parameters are none."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and not is_temporary(name))
    for name in names:
        if not name.endswith(YAML):
            yield folder / name, names


def lonely(folder: Path) -> Iterator[Path]:
    """Yield the files of parameters in a folder that wait for what they belong to."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    data = {part for name in names if not name.endswith(YAML) for part in (name, stem_of(name))}
    for name in names:
        if name.endswith(YAML) and name.rpartition(".")[0] not in data:
            yield folder / name


def why_not(path: Path) -> Mapping[str, str]:
    """Return path within a folder -> why it must not become part of a run: links outwards, devices, pipes."""
    faults: dict[str, str] = {}
    root = path.resolve()
    for name, status in _walk(path, ""):
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            target = (path / name.lstrip("/")).resolve() if name else path.resolve()
            if not name or not target.is_relative_to(root) or not target.exists():
                faults[name.lstrip("/") or path.name] = "a link that leads out of it, or nowhere"
        elif kind not in {stat.S_IFREG, stat.S_IFDIR}:
            faults[name.lstrip("/") or path.name] = "a device, a pipe or a socket"
        elif not os.access(
            path / name.lstrip("/") if name else path, os.R_OK | (os.X_OK if kind == stat.S_IFDIR else 0)
        ):
            faults[name.lstrip("/") or path.name] = "not to be read by the user of the yard: chmod g+rX"
    return faults
