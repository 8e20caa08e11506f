"""How much memory a training takes."""

import resource

import torch


def memory_in_use(device: torch.device) -> int:
    """Return the most bytes in use so far: of the GPU by this process, without one of the process's own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
