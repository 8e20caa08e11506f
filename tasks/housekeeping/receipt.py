"""The receipt of a round: what was removed, why, and how many bytes that freed, rule by rule."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpu_pools.placement.disk import size_text
from gpu_pools.placement.queues import duration_text

RULES: Mapping[str, str] = {
    "uploads": "data from the inbox whose runs are past their time",
    "rejected": "what could not become a run",
    "files": "folders of runs past their time",
    "checkpoints": "checkpoints of runs that have ended, but the best",
    "sweeps": "folders of sweeps that ended long ago",
    "temporary": "temporary files that nobody writes any more",
    "cache": "cache beyond its size",
    "dead_runs": "MLflow runs left RUNNING by the dead",
    "deleted_runs": "what was deleted in MLflow",
    "records": "Prefect's records and logs of runs",
    "service_logs": "logs of services, put aside",
}
"""The rules in the order in which they are applied: files first, then the records that say whose they are."""

_SHOWN = 200  # rows of the page's table
_DAY_S = 86_400.0


def age_text(seconds: float) -> str:
    """Return an age as people read it, in days from two on, else to the minute: 40 d, 12 h 30 min."""
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.0f} d"
    return duration_text(seconds if seconds < 60 else 60 * (seconds // 60))


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was removed, or would be: by which rule, what, why, and the bytes that this frees."""

    rule: str
    what: str
    why: str
    bytes: int = 0


@dataclass(slots=True)
class Receipt:
    """All of a round.

    Args:
        dry_run: nothing was removed.
        entries: what was, or would be.
        kept: what was due and stays all the same; what, and who needs it.
        notes: rules that could not be applied here, and what could not be removed.
    """

    dry_run: bool
    entries: list[Entry] = field(default_factory=list)
    kept: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Return how many bytes were freed, or would be."""
        return sum(entry.bytes for entry in self.entries)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each rule: how many things, how many bytes."""
        for rule, text in RULES.items():
            of_rule = [entry for entry in self.entries if entry.rule == rule]
            kept = sum(entry.rule == rule for entry in self.kept)
            freed = sum(entry.bytes for entry in of_rule)
            yield {"rule": rule, "what": text, "removed": len(of_rule), "bytes": freed, "kept": kept}

    def largest(self) -> list[dict[str, Any]]:
        """Return what freed most, as rows."""
        most: Sequence[Entry] = sorted(self.entries, key=lambda entry: -entry.bytes)[:_SHOWN]
        return [asdict(entry) for entry in most]

    def sentence(self) -> str:
        """Return what happened, in a line."""
        verb = "would free" if self.dry_run else "freed"
        parts = [f"{row['removed']} {row['rule']}" for row in self.rows() if row["removed"]]
        return f"{verb} {size_text(self.bytes)}: {', '.join(parts) or 'nothing is due'}"

    def as_json(self) -> dict[str, Any]:
        """Return it as the file has it."""
        return {
            "dry_run": self.dry_run,
            "bytes": self.bytes,
            "rules": list(self.rows()),
            "entries": [asdict(entry) for entry in self.entries],
            "kept": [asdict(entry) for entry in self.kept],
            "notes": self.notes,
        }
