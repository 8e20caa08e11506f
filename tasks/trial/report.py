"""The results of a trial's checks, and the bounds they must meet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.base.errors import TrainyardError

Verdict = Literal["ok", "failed", "not here"]
Value = float | int | str | bool | None

TRIAL = "trial.json"
"""The file, in the folder of a run, that holds the report."""


class TrialFailed(TrainyardError):
    """A check of a device failed; `report` is the file that says which."""

    def __init__(self, message: str, report: Path) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check has found.

    Args:
        check: what was looked at.
        verdict: not here: what it needs is not installed, or this kind of device has no such thing.
        figure: what was measured, and what it is held to, in words.
        todo: what to do; empty where nothing is to be done.
        seconds: the check took, this row and those of the same check together.
        values: the figures as numbers, by name.
    """

    check: str
    verdict: Verdict
    figure: str
    todo: str = ""
    seconds: float = 0.0
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """The device of a trial.

    Args:
        tag: as people write it: cuda:0, cpu.
        name: of the hardware.
        uuid: of the GPU; "cpu".
        kind: what torch computes on: a simulated GPU is a cpu.
    """

    tag: str
    name: str
    uuid: str
    kind: Literal["cuda", "cpu"]

    @property
    def is_gpu(self) -> bool:
        """Return whether there is a real GPU."""
        return self.kind == "cuda"


@dataclass(frozen=True, slots=True)
class Report:
    """A whole trial."""

    place: Place
    seconds: float
    rows: Sequence[CheckResult]

    @property
    def failed(self) -> list[str]:
        """Return the names of the checks that failed."""
        return [row.check for row in self.rows if row.verdict == "failed"]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "device": self.place.tag,
            "name": self.place.name,
            "uuid": self.place.uuid,
            "kind": self.place.kind,
            "ok": not self.failed,
            "seconds": round(self.seconds, 1),
            "checks": [asdict(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Report":
        """Return the report that `as_json` gave."""
        place = Place(found["device"], found["name"], found["uuid"], found["kind"])
        return cls(place, found["seconds"], [CheckResult(**row) for row in found["checks"]])

    def sentence(self) -> str:
        """Return the whole in a sentence."""
        where = f"{self.place.tag} ({self.place.name})"
        counted = [row for row in self.rows if row.verdict != "not here"]
        absent = len(self.rows) - len(counted)
        rest = f"; {absent} not here" if absent else ""
        if failed := self.failed:
            return f"{where}: {len(failed)} of {len(counted)} checks failed: {', '.join(failed)}{rest}"
        return f"{where}: all {len(counted)} checks passed in {self.seconds:.0f} s{rest}"


def checked(check: str, good: bool, figure: str, todo: str, **values: Value) -> CheckResult:
    """Return the row of a figure that is held to something; `todo` is for who sees it fail."""
    return CheckResult(check, "ok" if good else "failed", figure, "" if good else todo, values=values)


def not_here(check: str, what: str, todo: str = "") -> CheckResult:
    """Return the row of something that this machine does not have; `todo` says how to get it."""
    return CheckResult(check, "not here", what, todo)
