"""Chooses which version of a registered model is champion, by what it answers on the files of the new one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from tasks.base.errors import TrackingError
from tasks.base.file_locks import file_lock
from tasks.base.workspace import home, replacing
from tasks.tracking import registry
from tasks.training.promotion_rule import Decision

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ChampionAnswers:
    """What a champion answers on the N test files of its challenger, or on N parts that are on them."""

    version: int
    run_id: str  # of MLflow; a model that was deleted and made anew counts its versions from 1 again
    classes: list[str]
    digests: list[str]  # (N,) of the files, in their order
    predicted: NDArray[np.int64]  # (N,) in the order of `classes`; of a detector len(classes) for what it missed
    fair: NDArray[np.bool_]  # (N,) it was not trained on that file

    def keep(self, path: Path) -> None:
        """Write it to a file.

        Raises:
            StorageError: it cannot be written.
        """
        named: dict[str, Any] = {name: getattr(self, name) for name in ("version", "run_id", "classes", "digests")}
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, predicted=self.predicted, fair=self.fair, **named)

    def is_of(self, champion: ModelVersion, digests: Sequence[str]) -> bool:
        """Return whether this is what a champion answers on these files."""
        same = (self.version, self.run_id) == (int(champion.version), champion.run_id)
        return same and self.digests == list(digests)


def read_champion_answers(path: Path) -> ChampionAnswers | None:
    """Return what `ChampionAnswers.keep` wrote; None: nothing."""
    if not path.is_file():
        return None
    with np.load(path) as found:
        named = {name: found[name].tolist() for name in ("version", "run_id", "classes", "digests")}
        return ChampionAnswers(**named, predicted=found["predicted"], fair=found["fair"])


def take_over_from_lost(now: ModelVersion, why: str) -> Decision:
    """Return the decision on a champion that cannot be compared any more, and why.

    Without it, deleting an old run in MLflow would make every grading after it fail.
    """
    return Decision(True, f"promoted: version {now.version}, the champion, cannot be compared any more: {why}")


def choose_champion(name: str, version: int, compare: Callable[[ModelVersion | None], Decision]) -> Decision:
    """Give a new version the alias of the champion where it is better; return the decision.

    Args:
        name: of the registered model.
        version: the new one.
        compare: takes the champion, None where there is none yet, and decides. It is called again where another
            host promotes a version of its own meanwhile.

    Raises:
        TrackingError: MLflow does not answer, or other runs kept promoting theirs while this one was compared.
    """
    # One decision at a time on this host; runs of other hosts are noticed when the alias is to move.
    with file_lock(home() / "locks" / f"champion-{name}", f"the champion of {name}", wait=True):
        for _ in range(_ATTEMPTS):
            now = registry.champion(name)
            number = None if now is None else int(now.version)
            if now is not None and number == version:
                return Decision(True, now.description or "promoted before a restart")
            decision = compare(now)
            # Written before the alias moves: killed in between, the next attempt decides again, no reason is lost.
            tags = {"promoted": str(decision.promote).lower(), "compared_with": str(number or "none")}
            registry.annotate(name, version, tags=tags, description=decision.reason)
            if not decision.promote or registry.promote(name, version, instead_of=number):
                return decision
        raise TrackingError(
            f"the champion of {name} changed {_ATTEMPTS} times while version {version} was compared: compare again"
        )
