"""Fits the temperature that calibrates a model's probabilities, on images it was not trained on."""

import numpy as np
from numpy.typing import NDArray

_LOWEST, _HIGHEST = 0.05, 20.0
_HALVINGS = 60


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    """Return the temperature T > 0 with the smallest mean cross-entropy of softmax(logits / T).

    The loss is convex in 1/T, so its slope is halved in on. Source: Guo et al. 2017 (arXiv:1706.04599) sec. 4.2.

    Args:
        logits: (N, C).
        labels: (N,) in [0, C).

    Returns:
        None where the images do not tell: all are answered rightly, or no better than by chance, so that the best
        T is 0 or infinite.
    """
    scores = logits.astype(np.float64)
    truth = scores[np.arange(len(labels)), labels]

    def slope(sharpness: float) -> float:
        powers = np.exp(sharpness * (scores - scores.max(axis=1, keepdims=True)))
        shares = powers / powers.sum(axis=1, keepdims=True)
        return float(((shares * scores).sum(axis=1) - truth).mean())

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / low
