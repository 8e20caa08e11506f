"""What is fitted for each training image along with the Gaussians."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class PerImage:
    """Values per training image, their optimiser, and both as a state.

    Args:
        name: of the values in the state.
        values: (n, ...) that Adam fits.
        rate: learning rate.
        decay: weight decay.
    """

    def __init__(self, name: str, values: Tensor, rate: float, decay: float = 0.0) -> None:
        self._name, self.values = name, values
        self._optimizer = torch.optim.Adam([values], lr=rate, weight_decay=decay)

    def step(self) -> None:
        """Take one step from the gradients, and drop them."""
        self._optimizer.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients, as of an attempt that failed."""
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is fitted."""
        return {self._name: self.values.detach(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        with torch.no_grad():
            self.values.copy_(state[self._name])
        self._optimizer.load_state_dict(dict(state["optimizer"]))
