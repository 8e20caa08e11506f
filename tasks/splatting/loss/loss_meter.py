"""Averages the losses of a fit without waiting for the device."""

import math
from typing import Any

import torch
from torch import Tensor

from tasks.base.errors import TrainingError


class Losses:
    """Sums of the losses since the last report and since the last measurement.

    A loss stays on its device until `read`, since reading waits for a GPU.

    Args:
        max_steps: of the fit, for messages.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._unread: list[tuple[int, str, Tensor]] = []
        self._measured_at = -1  # steps done when the last measurement was taken
        self._since = [0.0, 0.0]  # sum, number since that measurement
        self._unsaid = [0.0, 0.0]  # sum, number since the last report

    def add(self, step: int, image: str, loss: Tensor) -> None:
        """Take a loss; `step` counts from 0."""
        self._unread.append((step, image, loss))

    def check(self, step: int, image: str, loss: float) -> None:
        """Raise TrainingError where the loss is not finite."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {step + 1} of {self._max_steps}, on image {image}: need a finite one; "
                "lower the learning rates"
            )

    def read(self) -> None:
        """Add up what came since the last time.

        Raises:
            TrainingError: a loss is not finite.
        """
        unread, self._unread = self._unread, []
        values = torch.stack([tensor for _, _, tensor in unread]).tolist() if unread else []  # one wait for a GPU
        for (step, image, _), loss in zip(unread, values, strict=True):
            self.check(step, image, loss)
            if step == self._measured_at:  # the first one after a measurement
                self._since = [0.0, 0.0]
            for sums in (self._since, self._unsaid):
                sums[0] += loss
                sums[1] += 1

    def reported(self) -> tuple[float, int]:
        """Return the mean and the number since the last report, and begin anew."""
        self.read()
        (total, n), self._unsaid = self._unsaid, [0.0, 0.0]
        return total / n if n else math.nan, int(n)

    def measured(self, step: int) -> float:
        """Return the mean since the last measurement, and note that one was taken after so many steps.

        Asked again before the next step, it says the same.
        """
        self.read()
        self._measured_at = step
        total, n = self._since
        return total / n if n else math.nan

    def is_measured(self, step: int) -> bool:
        """Return whether the last measurement was taken after so many steps."""
        return self._measured_at == step

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed fit needs."""
        self.read()
        return {"measured_at": self._measured_at, "since": list(self._since)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._measured_at, self._since = state["measured_at"], list(state["since"])
