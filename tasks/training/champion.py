"""Settles which version of a registered model is champion; one decision at a time."""

from collections.abc import Callable

from mlflow.entities.model_registry import ModelVersion

from tasks.base.errors import TrackingError
from tasks.base.file_locks import file_lock
from tasks.base.workspace import home
from tasks.tracking import registry
from tasks.training.promotion_rule import Decision

_ATTEMPTS = 5


def settle_champion(name: str, version: int, compare: Callable[[ModelVersion | None], Decision]) -> Decision:
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
