"""What a camera makes of the light: blur, exposure, white balance, tone, noise and JPEG."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.geometry.jit import fused
from tasks.images.images import encode_jpeg
from tasks.recognition.params import RenderParams

Floats = NDArray[np.float32]

F = np.float32
U = np.uint64

_WHITE = 6.0
"""Light that becomes pure white; 1 becomes about 80 percent of it."""
_STEPS = 4096
_LUMINANCE = (0.2126, 0.7152, 0.0722)


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
    exposure = 0.32 * rng.lognormal(0, 0.3) / (float(np.dot(cv2.mean(blurred)[:3], _LUMINANCE)) + 1e-3)
    gains = (exposure * np.clip(rng.normal(1, 0.05, 3), 0.8, 1.2)).astype(np.float32)
    strength = params.noise * rng.random() ** 2
    read, shot = np.float32(strength * rng.uniform(0.2, 0.6)), np.float32(strength * rng.uniform(0.3, 1))
    room = noise.shape[0] - light.shape[0]
    top, left = rng.integers(room + 1, size=2) if room > 0 else (0, 0)
    grain = np.resize(noise, light.shape[:2]) if room < 0 else noise[top : top + len(light), left : left + len(light)]
    levels = np.empty(light.shape, np.uint8)
    rows = (len(light), -1)
    _develop(blurred.reshape(rows), gains, grain, read, shot, _TONES, levels.reshape(rows))
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
    """Write grey levels (H, 3 W) of light (H, 3 W); each colour has noise of its own, from another place of the grain.

    In short loops over a row, each of which the compiler turns into vector instructions but for the one with the table.
    """
    height, width = grain.shape
    n, scale = U(3 * width), F(len(tones) - 1)
    shares, noise, steps = (
        np.empty(3 * width, np.float32),
        np.empty(3 * width, np.float32),
        np.empty(3 * width, np.int32),
    )
    for column in range(U(width)):
        for c in range(U(3)):
            shares[U(3) * column + c] = gains[c] * F(1 / _WHITE)
    for row in range(U(height)):
        given, written, flipped = light[row], levels[row], U(height) - U(1) - row
        for column in range(U(width)):
            first = U(3) * column
            noise[first], noise[first + U(1)] = grain[row, column], grain[flipped, column]
            noise[first + U(2)] = grain[row, U(width) - U(1) - column]
        for k in range(n):
            steps[k] = np.int32(min(np.sqrt(max(given[k] * shares[k], F(0))), F(1)) * scale)
        for k in range(n):
            step = U(steps[k])
            noise[k] = tones[step, U(0)] + noise[k] * (read + shot * tones[step, U(1)])
        for k in range(n):
            written[k] = np.uint8(np.int32(min(max(noise[k] + F(0.5), F(0)), F(255))))
