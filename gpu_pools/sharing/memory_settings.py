"""Names what of a flow's parameters decides how much of a GPU's memory a run takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class MemorySetting:
    """What the memory of a run depends on; runs of the same setting take the same.

    Args:
        model: flow, network and what else its fixed part depends on.
        rate: what the part that grows depends on, beside the model, such as the precision.
        size: what that part is in proportion to, such as batch x pixels, above 0; None: not known.
    """

    model: str
    rate: str = ""
    size: float | None = None


@dataclass(frozen=True, slots=True)
class _Parameters:
    """Which parameters of a flow matter, as SECTION.NAME; factors with their powers, multiplied, are the size."""

    model: tuple[str, ...]
    rate: tuple[str, ...] = ()
    factors: Mapping[str, int] = field(default_factory=dict)


_TRAIN_CLASSIFIER = _Parameters(
    ("train.model", "train.optimizer"),
    ("train.precision", "train.compile"),
    {"train.batch_size": 1, "train.image_size": 2},
)
_TRAIN_SPLAT = _Parameters(
    ("train.preset", "train.strategy", "train.sh_degree"), ("train.max_side",), {"train.cap_max": 1}
)
PARAMETERS: Mapping[str, _Parameters] = {
    "train_classifier": _TRAIN_CLASSIFIER,
    "classification": _TRAIN_CLASSIFIER,  # in a person's own process a pipeline has the slot
    "train_splat": _TRAIN_SPLAT,
    "splatting": _TRAIN_SPLAT,
    "train_detector": _Parameters(
        ("detector.network", "detector.network_folder", "detector.optimizer"),
        ("detector.precision",),
        {"detector.batch_size": 1, "detector.image_size": 2},
    ),
    "train_index": _Parameters(
        ("index.backbone", "index.backbone_folder", "index.train", "index.optimizer"),
        ("index.precision",),
        {"index.batch_size": 1, "index.image_size": 2},
    ),
    "predict": _Parameters(
        ("predict.weights", "predict.model"),
        ("predict.precision",),
        {"predict.batch_size": 1, "predict.image_size": 2},
    ),
    "add_part": _Parameters(("index",)),
    # The batch of 0 is found by the free memory: such a run fits itself in, and nothing is forecast of it.
    "describe": _Parameters(("ask.model",), ("ask.precision", "ask.max_tokens"), {"ask.batch_size": 1}),
    "serve": _Parameters(("model", "serve.engine", "gate.limit")),
    "own_program": _Parameters(("program.command",)),
}
"""By flow; runs of others take nobody knows how much."""

_SAME = {"classification": "train_classifier", "splatting": "train_splat"}


def setting_of(flow: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> MemorySetting | None:
    """Return what the memory of a run depends on; None: it is no flow of which that is known, or fits itself in.

    Args:
        flow: its name.
        parameters: of the run, as Prefect keeps them.
        defaults: of those that it does not name, in the same form.
    """
    matters = PARAMETERS.get(flow)
    if matters is None:
        return None

    def value(path: str) -> Any:
        found = _at(parameters, path)
        return _at(defaults, path) if found is None else found

    size, unknown = 1.0, []
    for path, power in matters.factors.items():
        factor = value(path)
        if factor is None:
            unknown.append(path)
        elif isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor <= 0:
            return None
        else:
            size *= factor**power
    model = "; ".join([_SAME.get(flow, flow), *_said(matters.model, value)])
    rate = "; ".join([*_said(matters.rate, value), *(f"{path} by itself" for path in unknown)])
    return MemorySetting(model, rate, size if len(unknown) < len(matters.factors) else None)


def _said(paths: tuple[str, ...], value: Any) -> Iterator[str]:
    for path in paths:
        if (found := value(path)) is not None:
            yield f"{path}={found}"


def _at(parameters: Mapping[str, Any], path: str) -> Any:
    found: Any = parameters
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
