"""Runs the checks of a trial; one that fails, hangs or dies does not stop the others."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from tasks.base.errors import TrainyardError
from tasks.trial.plan import CHECKS, PATIENCE, TOTAL_S, TrialCheck
from tasks.trial.processes import Speaker, TrialError
from tasks.trial.report import CheckResult, Place

_AGAIN = "run it again; if it comes back, report it with what `--json` says"


def run_checks(
    place: Place, folder: Path, checks: Sequence[TrialCheck] = CHECKS, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[CheckResult]:
    """Yield the rows of all checks.

    Args:
        place: the device; the environment lets torch see that one alone.
        folder: to work in; there.
        checks: in their order.
        clock: seconds, monotonic.

    Raises:
        Interrupted: a signal has come.
    """
    total_s = TOTAL_S[place.kind]
    deadline = clock() + total_s
    with Computing(place, folder) as computing:
        for check in checks:
            left = deadline - clock()
            if left <= 0:
                yield CheckResult(check.name, "failed", f"not run: the {total_s:.0f} s of a trial were over", _AGAIN)
                continue
            begun = clock()
            rows = _rows(computing, check, min(PATIENCE[place.kind] * check.limit_s, left))
            yield from (replace(row, seconds=round(clock() - begun, 1)) for row in rows)


def _rows(computing: "Computing", check: TrialCheck, limit_s: float) -> list[CheckResult]:
    try:
        return computing.rows(check, limit_s) if check.computes else call(check, computing.place, computing.folder)
    except TrialError as exc:
        return [CheckResult(check.name, "failed", str(exc), _AGAIN)]


def call(check: TrialCheck, place: Place, folder: Path) -> list[CheckResult]:
    """Return the rows of a check; what it raises is a row of its own."""
    module, _, function = check.function.rpartition(".")
    try:
        return list(getattr(import_module(module), function)(place, folder))
    except TrainyardError as exc:
        return [CheckResult(check.name, "failed", str(exc), _AGAIN)]
    except Exception as exc:  # any error is the result of the check
        said = str(exc).strip().splitlines()
        return [CheckResult(check.name, "failed", f"{type(exc).__name__}: {said[0][:300] if said else ''}", _AGAIN)]


class Computing:
    """The process that computes the checks one after the other; it is started anew where it died or hung."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.folder = place, folder
        self._stack = ExitStack()
        self._speaker: Speaker | None = None

    def __enter__(self) -> "Computing":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def rows(self, check: TrialCheck, limit_s: float) -> list[CheckResult]:
        """Return the rows of a check.

        Raises:
            TrialError: it took too long, or its process died.
        """
        if self._speaker is None:
            place = (self.place.tag, self.place.name, self.place.uuid, self.place.kind)
            speaker = Speaker("tasks.trial.child", str(self.folder), *place, log=self.folder / "child.log")
            self._speaker = self._stack.enter_context(speaker)
        try:
            self._speaker.tell([check.name])
            answer = self._speaker.hear(limit_s)
        except TrialError:
            self._stack.close()
            self._speaker = None
            raise
        return [CheckResult(**row) for row in answer["rows"]]
