"""Remembers the best epoch, and says when too many have passed without a better one."""

import math
from dataclasses import dataclass

Score = tuple[float, float]
"""What epochs are compared by: the first number, and the second where the first are the same; more is better."""


@dataclass(slots=True)
class EarlyStopping:
    """The best epoch so far, and whether the training is to end.

    Args:
        patience: epochs without a better one after which the training ends; 0: it never does.
    """

    patience: int
    best: Score = (-1.0, -math.inf)
    best_epoch: int = 0  # from 1; 0: none yet
    stopped: bool = False

    def is_best(self, epoch: int, score: Score) -> bool:
        """Take an epoch's score; return whether it is the best so far."""
        if score > self.best:
            self.best, self.best_epoch = score, epoch
            return True
        self.stopped = bool(self.patience) and epoch - self.best_epoch >= self.patience
        return False

    @property
    def reason(self) -> str:
        """Return why the training ends, as a sentence."""
        return f"stopped early: no better epoch since {self.best_epoch} (patience {self.patience})"
