"""A type for work that reports its progress: a generator of (done, total) that returns the result."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

R = TypeVar("R")
Steps = Generator[tuple[int, int], None, R]
"""Yields (done, total); its return value is the result."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence a person should read."""

    text: str


def finish(work: Steps[R]) -> R:
    """Do all of the work, for whom its progress does not interest, and return the result."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
