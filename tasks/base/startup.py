"""Helps programs start quickly, because imports take most of their start."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def module_command(name: str, *words: str) -> list[str]:
    """Return the command that runs a module of this project by this interpreter.

    With -P it is not looked for in the current folder: people have folders of their own called tasks and flows.
    """
    return [sys.executable, "-P", "-m", name, *words]


@contextmanager
def uncollected() -> Iterator[None]:
    """Import within this block: the garbage collector stands still.

    Classes and functions stay for as long as the process does; looking through them again and again while they are
    made is a fifth of the time that Prefect takes to be imported. At the end they count as old, so that the next
    look at what is young does not go through them; not frozen, as nanobind calls leaked what is not collected at exit.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # unfreezing puts frozen objects into the oldest generation
        if was_on:
            gc.enable()
