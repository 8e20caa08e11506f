"""How work reports its progress: a generator of (done, total) that returns the result, or events."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

R = TypeVar("R")
Steps = Generator[tuple[int, int], None, R]
"""Yields (done, total); its return value is the result."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is, as an event among others."""

    work: str  # its name in a bar: "frames", "matches", "read train"
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence a person should read."""

    text: str


def finish(work: Steps[R], moved: Callable[[int, int], None] | None = None) -> R:
    """Do all of the work and return the result.

    Args:
        work: yields (done, total).
        moved: told each of them.
    """
    while True:
        try:
            done, total = next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
        if moved is not None:
            moved(done, total)
