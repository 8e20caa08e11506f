"""Refuses a run before it is submitted where what it will write does not fit on the disk."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_pools.placement.disk import Need, check_fits, together
from tasks.base.errors import DatasetError
from tasks.base.workspace import home
from tasks.classification.params import TrainParams
from tasks.splatting.params import FramesParams, SplatParams
from tasks.store.places import is_data_set


def check_room(flow: Any, checked: Mapping[str, Any]) -> None:
    """Hold what a flow will write, where its files and parameters tell that, against what is free on the home's disk.

    Args:
        flow: of one that neither prepares nor trains nothing is known before it runs.
        checked: its parameters, as its types; the others have their defaults.

    Raises:
        StorageError: it does not fit, with both numbers.
    """
    defaults = {name: given.default for name, given in inspect.signature(flow.fn).parameters.items()}
    target = home() / "runs"
    with suppress(DatasetError):  # its data is no data set: the run says what is wrong with it
        check_fits(together(_needs({**defaults, **checked}, target)), target)


def _needs(values: Mapping[str, Any], target: Path) -> Iterator[Need]:
    """Yield what the parts of a flow will take, by its parameters."""
    data, train = values.get("data"), values.get("train")
    if is_data_set(data):  # it is looked at where the run begins: it need not be here
        data = None
    if {"split", "augment"} <= values.keys() and data is not None:
        from tasks.classification.data.disk_need import preparation_need

        yield preparation_need(data, values["split"], values["augment"], target)
    if isinstance(train, TrainParams):
        from tasks.classification.training.disk_need import classifier_need

        yield classifier_need(train)
    if isinstance(values.get("frames"), FramesParams) and isinstance(data, Path):
        from tasks.splatting.capture.disk_need import frames_need

        yield frames_need(data, values["frames"])
    if isinstance(train, SplatParams):
        from tasks.splatting.fit.disk_need import splat_need

        yield splat_need(train)
