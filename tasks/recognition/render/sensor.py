"""What a camera makes of the light: blur, exposure, white balance, tone, noise and JPEG."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.images.images import encode_jpeg
from tasks.recognition.params import RenderParams

Floats = NDArray[np.float32]

_WHITE = 6.0
"""Light that becomes pure white; 1 becomes about 80 percent of it."""
_STEPS = 4096
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def _tone_table() -> Floats:
    """Return (4096, 2) of each square root of light: the grey level, 0 to 255, and the root of its share of 255.

    Reinhard's curve with a white point, then sRGB.

    Source: Reinhard et al. 2002, "Photographic Tone Reproduction for Digital Images", eq. 4; IEC 61966-2-1.
    """
    x = (np.arange(_STEPS) / (_STEPS - 1)) ** 2 * _WHITE
    y = np.clip(x * (1 + x / _WHITE**2) / (1 + x) * 1.25, 0, 1)
    y = np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)
    return np.stack([255 * y, np.sqrt(y)], axis=1).astype(np.float32)


_TONES = _tone_table()


def photograph(light: Floats, noise: Floats, params: RenderParams, rng: np.random.Generator) -> bytes:
    """Return the JPEG file of an image of linear light (S, S, 3).

    Args:
        noise: (N, N), of deviation 1, of which a piece is taken.
    """
    blurred = _blurred(light, params.blur * light.shape[0] / 256, rng)
    exposure = 0.32 * rng.lognormal(0, 0.3) / (float((blurred @ _LUMINANCE).mean()) + 1e-3)
    gains = (exposure * np.clip(rng.normal(1, 0.05, 3), 0.8, 1.2)).astype(np.float32)
    strength = params.noise * rng.random() ** 2
    read, shot = np.float32(strength * rng.uniform(0.2, 0.6)), np.float32(strength * rng.uniform(0.3, 1))
    room = noise.shape[0] - light.shape[0]
    top, left = rng.integers(room + 1, size=2) if room > 0 else (0, 0)
    grain = np.resize(noise, light.shape[:2]) if room < 0 else noise[top : top + len(light), left : left + len(light)]
    levels = np.empty(light.shape, np.uint8)
    _develop(blurred, gains, grain, read, shot, _TONES, levels)
    return encode_jpeg(levels, int(rng.integers(params.min_quality, params.max_quality + 1)))


def _blurred(light: Floats, most: float, rng: np.random.Generator) -> Floats:
    """Return an image out of focus, moved, or sharp."""
    kind, strength = rng.random(), most * rng.random()
    if kind < 0.4 and strength > 0.2:
        return np.asarray(cv2.GaussianBlur(light, (0, 0), strength), np.float32)
    if kind < 0.55 and strength > 0.2:
        streak = _streak(3 * strength, rng.uniform(0, np.pi))
        return np.asarray(cv2.filter2D(light, -1, streak, borderType=cv2.BORDER_REFLECT), np.float32)
    return light


def _streak(length: float, angle: float) -> Floats:
    """Return the kernel of a camera that moves by so many pixels."""
    side = 2 * int(np.ceil(length / 2)) + 3
    kernel_ = np.zeros((side, side), np.float32)
    middle, reach = side // 2, length / 2
    ends = [
        (int(16 * (middle + s * reach * np.cos(angle))), int(16 * (middle + s * reach * np.sin(angle))))
        for s in (-1, 1)
    ]
    cv2.line(kernel_, ends[0], ends[1], 1.0, 1, cv2.LINE_8, shift=4)
    return kernel_ / kernel_.sum()


@fused
def _develop(
    light: Floats,
    gains: Floats,
    grain: Floats,
    read: np.float32,
    shot: np.float32,
    tones: Floats,
    levels: NDArray[np.uint8],
) -> None:
    """Write grey levels (H, W, 3); each colour has noise of its own, from another place of the grain (H, W)."""
    height, width = grain.shape
    scale = np.float32(len(tones) - 1)
    for row in range(height):
        for column in range(width):
            for c in range(3):
                x = max(light[row, column, c] * gains[c], np.float32(0))
                place = min(np.sqrt(x * np.float32(1 / _WHITE)), np.float32(1)) * scale
                step = np.uint64(place)
                level = tones[step, np.uint64(0)]
                y = row if c != 1 else height - 1 - row
                z = column if c != 2 else width - 1 - column
                level += grain[y, z] * (read + shot * tones[step, np.uint64(1)])
                levels[row, column, c] = np.uint8(min(max(level + np.float32(0.5), np.float32(0)), np.float32(255)))
