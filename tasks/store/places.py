"""Names places that every host has in its own home, in the parameters of runs.

`home:/runs/ID/split` is a folder of a run, wherever the home of a host lies; `data:NAME`, or `data:NAME@DIGEST`, is a
data set that somebody has put into the store.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.base.workspace import home
from tasks.store.setting import hosts_share_a_disk

HOME = "home:"
DATA = re.compile(r"data:(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,99})(?:@(?P<digest>[0-9a-f]{8,64}))?")
DATA_FOLDER = "datasets"
"""Folder of the home in which each data set lies under its digest."""

_RUN = re.compile(rf"{HOME}/runs/(?P<run>[A-Za-z0-9][\w.-]*)(?:/.*)?")
_KEPT = re.compile(rf"{HOME}/{DATA_FOLDER}/(?P<digest>[0-9a-f]{{64}})(?:/.*)?")


def is_data_set(path: Any) -> bool:
    """Return whether a parameter names a data set of the store."""
    return DATA.fullmatch(str(path)) is not None


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be on a host before a run begins.

    Args:
        runs: ids of those whose folders it reads or goes on with.
        data: data sets as they are written in its parameters: data:NAME, data:NAME@DIGEST.
        digests: of data sets that another host has resolved already.
    """

    runs: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Return whether there is anything."""
        return bool(self.runs or self.data or self.digests)


def portable(parameters: Any) -> Any:
    """Return parameters with every path in this host's home written as home:/..."""
    below = f"{home()}/"
    return _changed(parameters, lambda text: f"{HOME}/{text[len(below) :]}" if text.startswith(below) else text)


def recorded(values: Any) -> Any:
    """Return what is written down of a run, so that it reads the same on every host that goes on with it."""
    return values if hosts_share_a_disk() else portable(values)


def local(parameters: Any, data: Mapping[str, str]) -> Any:
    """Return parameters with every place written as this host has it.

    Args:
        parameters: of a run.
        data: where data sets lie here, by how they are written.
    """

    def here(text: str) -> str:
        return f"{home()}{text[len(HOME) :]}" if text.startswith(f"{HOME}/") else data.get(text, text)

    return _changed(parameters, here)


def renamed(parameters: Any, names: Mapping[str, str]) -> Any:
    """Return parameters with some texts replaced by others."""
    return _changed(parameters, lambda text: names.get(text, text))


def needs(parameters: Mapping[str, Any], own: str | None = None) -> Needs:
    """Return what a run's parameters name.

    Args:
        parameters: of the run, as Prefect has them.
        own: the run's id, where it may have begun on another host.
    """
    texts = list(_texts(parameters))
    runs = {found["run"] for text in texts if (found := _RUN.fullmatch(text))}
    if isinstance(run := parameters.get("run"), str) and run:
        runs.add(run)
    if own is not None:
        runs.add(own)
    data = {text for text in texts if DATA.fullmatch(text)}
    digests = {found["digest"] for text in texts if (found := _KEPT.fullmatch(text))}
    return Needs(frozenset(runs), frozenset(data), frozenset(digests))


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for item in value.values():
                yield from _texts(item)
        case list() | tuple():
            for item in value:
                yield from _texts(item)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case Mapping():
            return {key: _changed(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_changed(item, change) for item in value]
        case _:
            return value
