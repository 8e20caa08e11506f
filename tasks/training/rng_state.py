"""Saves and restores the state of torch's random generators."""

import torch
from torch import Tensor


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators a training on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators where they stood; a generator that was not used then stays where it is."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:  # absent if the training began on the CPU
        torch.cuda.set_rng_state(states["cuda"], device)
