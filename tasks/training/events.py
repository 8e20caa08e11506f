"""What every training tells of its progress."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Progress within an epoch; yielded after every optimiser step."""

    epoch: int  # from 1
    batch: int  # done in this epoch
    n_batches: int
