"""Refuses a run before it is submitted where what it will write does not fit on the disk."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gpu_pools.placement.disk import check_fits
from tasks.base.errors import DatasetError
from tasks.base.workspace import home


def check_room(flow: Any, checked: Mapping[str, Any]) -> None:
    """Hold what a flow will write, where its files tell that, against what is free on the disk of the home.

    Args:
        flow: one that splits and augments images; of others nothing is known before they run.
        checked: its parameters, as its types; the others have their defaults.

    Raises:
        StorageError: it does not fit, with both numbers.
    """
    defaults = {name: given.default for name, given in inspect.signature(flow.fn).parameters.items()}
    values = {**defaults, **checked}
    if not {"data", "split", "augment"} <= values.keys() or values["data"] is None:
        return
    from tasks.classification.data.disk_need import preparation_need

    target = home() / "runs"
    with suppress(DatasetError):  # its data is no data set: the run says what is wrong with it
        check_fits(preparation_need(values["data"], values["split"], values["augment"], target), target)
