"""Estimates how much room the checkpoints and weights of a training take on the disk."""

from gpu_pools.placement.disk import Need


def training_need(weights: int, *, n_moments: int, averaged: bool, n_kept: int = 0) -> Need:
    """Return the bytes that a training takes at the moment when it takes most.

    A checkpoint holds the weights, the moments of the optimiser and the average of the weights. It is there twice
    while it is replaced, and so are the best weights. When MLflow gets its copies, at the end, the checkpoint goes.

    Args:
        weights: bytes of the network's weights.
        n_moments: numbers that the optimiser keeps for each of them: two of Adam, one of SGD with momentum.
        averaged: an average of the weights is kept, too.
        n_kept: epochs whose weights are kept, in the folder of the run and in MLflow.
    """
    checkpoint = weights * (1 + n_moments + int(averaged))
    kept = f" and the weights of {n_kept:,} epochs" if n_kept else ""
    return Need(2 * checkpoint + 2 * weights + 2 * n_kept * weights, f"checkpoints{kept}")
