"""Work that says how far it is: a generator of (done, total) whose return value is the result."""

from collections.abc import Generator
from typing import TypeVar

R = TypeVar("R")
Steps = Generator[tuple[int, int], None, R]


def finish(work: Steps[R]) -> R:
    """Do all of the work, for whom its progress does not interest, and return the result."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: R = stop.value
            return result
