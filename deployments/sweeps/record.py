"""Keeps on disk what a sweep is, so that another process goes on with it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployments.runs.submit import Wishes
from deployments.sweeps.objective import Objective
from tasks.base.errors import ConfigError
from tasks.base.outside import read_json
from tasks.base.workspace import home, storage_errors, write_json
from tasks.housekeeping.sweeps import CANCELLED, ENDED, LOCK, SWEEPS
from tasks.tracking.journal import cut_torn_line

_RECORD = "sweep.json"


@dataclass(frozen=True, slots=True)
class Terms:
    """How a sweep is conducted.

    Args:
        n_trials: in all.
        n_parallel: trials that wait or run at once.
        seed: of the sampler.
        prune_after: measurements after which a trial is first compared with others; 0: no trial is ended early.
        device, priority, time_limit: of each run, as `yard submit` takes them.
    """

    n_trials: int
    n_parallel: int
    seed: int
    prune_after: int
    device: str | None
    priority: int | None
    time_limit: str | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was asked for.

    Args:
        name: of the sweep, and of its folder.
        uid: by which its runs, in Prefect and MLflow, are found again.
        flow: that each trial is a run of.
        parameters: nested; what all trials share, paths absolute.
        space: as the space file has it.
        objective: what the trials are compared by.
        experiment: of the parent run in MLflow.
        terms: of it.
        owner: of each run, user@host.
    """

    name: str
    uid: str
    flow: str
    parameters: dict[str, Any]
    space: dict[str, Any]
    objective: Objective
    experiment: str
    terms: Terms
    owner: str

    @property
    def folder(self) -> Path:
        """Where the sweep's files are."""
        return sweep_folder(self.name)

    def wishes(self, number: int) -> Wishes:
        """Return how the run of a trial is to be treated."""
        terms = self.terms
        return Wishes(terms.device, terms.priority, None, terms.time_limit, f"{self.name}-{number}", self.owner)


def sweep_folder(name: str) -> Path:
    """Return the folder of a sweep.

    Raises:
        ConfigError: the name could lead elsewhere.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII):
        raise ConfigError(f"found the name {name!r}, need at most 100 letters, digits and _.-, a letter or digit first")
    return home() / SWEEPS / name


def is_new(name: str) -> None:
    """Pass a name that no sweep of this home has.

    Raises:
        ConfigError: one has it.
    """
    if (sweep_folder(name) / _RECORD).exists():
        raise ConfigError(
            f"found a sweep {name!r} already: `yard sweep --resume {name}` goes on, or take another --name"
        )


def write_sweep(sweep: Sweep) -> None:
    """Keep a sweep that begins, or goes on."""
    with storage_errors(sweep.folder):
        sweep.folder.mkdir(parents=True, exist_ok=True)
        (sweep.folder / ENDED).unlink(missing_ok=True)
    write_json(sweep.folder / _RECORD, asdict(sweep))


def read_sweep(name: str) -> Sweep:
    """Return a sweep of this home.

    Raises:
        ConfigError: there is none of that name, or its file is not one of ours.
    """
    path = sweep_folder(name) / _RECORD
    if not path.exists():
        raise ConfigError(f"found no sweep {name!r} in {home() / SWEEPS}, have: {', '.join(sweep_names()) or 'none'}")
    content = read_json(path, ConfigError)
    try:
        objective, terms = Objective(**content["objective"]), Terms(**content["terms"])
        return Sweep(**{**content, "objective": objective, "terms": terms})
    except (TypeError, KeyError) as exc:
        raise ConfigError(f"cannot read {path}: need the record of a sweep ({exc})") from exc


def sweep_names() -> list[str]:
    """Return the names of the sweeps of this home."""
    return sorted(path.parent.name for path in (home() / SWEEPS).glob(f"*/{_RECORD}"))


def lock_of(sweep: Sweep) -> Path:
    """Return the lock file that the process holds which conducts a sweep."""
    return sweep.folder / LOCK


def call_ended(sweep: Sweep) -> None:
    """Say that a sweep has come to its end; `write_sweep` takes it back."""
    with storage_errors(sweep.folder):
        (sweep.folder / ENDED).touch()


def has_ended(sweep: Sweep) -> bool:
    """Return whether a sweep has come to its end, its pictures drawn."""
    return (sweep.folder / ENDED).exists()


def call_cancelled(sweep: Sweep) -> None:
    """Say that a sweep is at its end, also to the process that may sweep."""
    with storage_errors(sweep.folder):
        (sweep.folder / CANCELLED).touch()


def is_cancelled(sweep: Sweep) -> bool:
    """Return whether somebody has ended a sweep."""
    return (sweep.folder / CANCELLED).exists()


def trim_journal(path: Path) -> None:
    """Cut off a line that a power cut left half written; what follows it could not be read."""
    if path.exists():
        with storage_errors(path), path.open("r+b") as file:
            cut_torn_line(file.fileno())


def as_text(values: Mapping[str, Any]) -> str:
    """Return the values of a trial in a line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={json.dumps(value)}"
        for name, value in values.items()
    )
