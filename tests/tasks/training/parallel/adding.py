"""A training that adds up the ranks of its processes, once."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tasks.base.errors import TrainingError
from tasks.classification.params import TrainParams
from tasks.training.parallel.ranks import Ranks


class Adding:
    """The session of a process but the first: it adds its rank, and then does what its data set is called."""

    def __init__(self, dataset: Path, *_: object, **__: object) -> None:
        self._then = dataset.name

    def find_data(self) -> None:
        pass

    def help(self, precision: str, connect) -> None:
        ranks = connect()
        assert precision == "bf16"
        dist.all_reduce(torch.tensor(float(ranks.rank)))
        match self._then:
            case "end":
                return
            case "hang":
                time.sleep(60)
            case "":
                raise AssertionError("nothing to say")
        raise TrainingError(self._then)


def adding(then: str) -> dict[str, Any]:
    """Return how a process opens the session that then ends well ("end"), hangs, or fails with this reason."""
    params = {"session": f"{__name__}:Adding", "params_type": "tasks.classification.params:TrainParams"}
    return {**params, "params": TrainParams().model_dump(mode="json"), "dataset": then, "folder": ".", "cache": "."}


def add_up(ranks: Ranks) -> None:
    """Add up as the first of two processes."""
    assert (ranks.rank, ranks.size) == (0, 2)
    total = torch.tensor(float(ranks.rank))
    dist.all_reduce(total)
    assert total.item() == 1
