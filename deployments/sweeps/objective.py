"""Says by which metric of MLflow the trials of a flow are compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.base.errors import ConfigError

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a sweep looks for.

    Args:
        metric: its name in MLflow.
        direction: whether more of it is better, or less.
        keeps_best: the result of a run is its best measurement, not its last one: the weights of that epoch are kept.
    """

    metric: str
    direction: Direction
    keeps_best: bool

    def better(self, one: float, other: float) -> bool:
        """Return whether the first value is better than the second."""
        return one > other if self.direction == "maximize" else one < other

    def value(self, measured: list[float]) -> float | None:
        """Return what a run with these measurements, in their order, is worth; None: there is none but NaN."""
        numbers = [number for number in measured if number == number]
        if not numbers:
            return None
        if not self.keeps_best:
            return numbers[-1]
        return max(numbers) if self.direction == "maximize" else min(numbers)


# Of the validation part: a test part that trials were chosen by would be none any more.
_OF_FLOWS = {
    "classification": Objective("accuracy/val", "maximize", True),
    "train_classifier": Objective("accuracy/val", "maximize", True),
    "recognition": Objective("map/val", "maximize", True),
    "train_detector": Objective("map/val", "maximize", True),
    "train_index": Objective("recall/val_1", "maximize", True),
    "splatting": Objective("psnr/held_out", "maximize", False),
    "train_splat": Objective("psnr/held_out", "maximize", False),
}

_OF_METHODS = {"detector": "map/val", "index": "recall/val_1"}
"""Methods of `recognition`, which are trained one after the other: a metric of one knows nothing of the other."""


def objective_of(flow: str, metric: str | None, direction: str | None) -> Objective:
    """Return what the trials of a flow are compared by.

    Args:
        flow: its name.
        metric: of MLflow; None: the flow's own.
        direction: None: that of the flow's own metric.

    Raises:
        ConfigError: the flow has no metric of its own and none is given, or its direction is not known.
    """
    wanted: Direction | None = next((known for known in get_args(Direction) if known == direction), None)
    if direction is not None and wanted is None:
        raise ConfigError(f"found --direction {direction}, need maximize or minimize")
    own = _OF_FLOWS.get(flow)
    if metric is None and own is None:
        raise ConfigError(f"found no metric to compare runs of {flow} by, need --metric NAME and --direction")
    if own is not None and metric in (None, own.metric):
        return Objective(own.metric, wanted or own.direction, own.keeps_best)
    if metric is None or wanted is None:
        raise ConfigError(f"found --metric {metric}, need --direction maximize or minimize with it")
    return Objective(metric, wanted, own.keeps_best if own else True)


def check_moves(flow: str, objective: Objective, names: Iterable[str]) -> None:
    """Pass parameters that can move what the trials are compared by.

    Args:
        flow: its name.
        objective: of the sweep.
        names: of the parameters that are searched.

    Raises:
        ConfigError: one belongs to another training than the metric.
    """
    measured = next((method for method, metric in _OF_METHODS.items() if metric == objective.metric), None)
    if flow != "recognition" or measured is None:
        return
    for name in names:
        method = name.partition(".")[0]
        if method in _OF_METHODS and method != measured:
            raise ConfigError(
                f"{name}: found {objective.metric} to compare trials by, which is of the {measured}; "
                f"need --metric {_OF_METHODS[method]} --direction maximize, or a sweep of train_{method}"
            )
