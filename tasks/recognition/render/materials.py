"""Materials by seed: metal, plastic and painted, as a physically based model describes them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.recognition.params import Material

Floats = NDArray[np.float32]

N_VALUES = 9
"""Of a material: base colour r, g, b; metallic; roughness; reflectance f0; then of the relief: kind, height, waves."""
NONE, CAST, TURNED = 0.0, 1.0, 2.0

_METALS = np.array(
    [
        [0.56, 0.57, 0.58],  # iron, steel
        [0.91, 0.92, 0.92],  # aluminium
        [0.66, 0.61, 0.53],  # nickel
        [0.55, 0.56, 0.55],  # chromium
        [0.66, 0.67, 0.69],  # zinc
        [0.89, 0.79, 0.43],  # brass
        [0.95, 0.64, 0.54],  # copper
        [0.12, 0.12, 0.12],  # blackened steel
    ]
)
_METALS_UP_TO = np.cumsum(np.array([6, 6, 2, 2, 3, 2, 1, 2]) / 24)
"""Linear reflectance at right angles. Source: Lagarde 2011, "Feeding a physically based shading model"."""

_USUAL_COLORS = np.array(
    [
        [0.03, 0.03, 0.03],
        [0.6, 0.6, 0.58],
        [0.18, 0.19, 0.2],
        [0.05, 0.12, 0.35],
        [0.4, 0.03, 0.02],
        [0.55, 0.3, 0.02],
        [0.05, 0.2, 0.07],
        [0.6, 0.12, 0.02],
    ]
)


def random_material(rng: np.random.Generator, kinds: Sequence[Material]) -> Floats:
    """Return the values (N_VALUES,) of a material of one of these kinds."""
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "metal":
        color = _METALS[np.searchsorted(_METALS_UP_TO, rng.random(), side="right")] * rng.uniform(0.75, 1.05, 3).mean()
        rough = rng.uniform(0.18, 0.6)
        relief = rng.choice([NONE, CAST, TURNED], p=[0.4, 0.25, 0.35])
        return _values(color, 1.0, rough, 0.0, relief, rng)
    color = _USUAL_COLORS[rng.integers(len(_USUAL_COLORS))] * rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3)
    if rng.random() < 0.2:
        color = 0.04 + 0.7 * rng.random(3) ** 1.5
    rough = rng.uniform(0.25, 0.75) if kind == "plastic" else rng.uniform(0.2, 0.55)
    relief = rng.choice([NONE, CAST], p=[0.5, 0.5])
    return _values(color, 0.0, rough, rng.uniform(0.03, 0.06), relief, rng)


def ground_material(rng: np.random.Generator) -> Floats:
    """Return the values of what parts lie on; its colour comes from a texture."""
    rough = rng.uniform(0.35, 1.0)
    return np.array([1, 1, 1, 0, rough, 0.04, NONE, 0, 1], np.float32)


def _values(
    color: NDArray[np.float64], metallic: float, rough: float, f0: float, relief: float, rng: np.random.Generator
) -> Floats:
    height = rng.uniform(0.03, 0.22) if relief == CAST else rng.uniform(0.02, 0.1)
    waves = rng.uniform(15, 60) if relief == CAST else rng.uniform(60, 200)
    return np.array([*np.clip(color, 0.01, 1), metallic, rough, f0, relief, height, waves], np.float32)
