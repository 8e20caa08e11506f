"""Writes a splat as one HTML page that needs no library, network or server."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.workspace import write_atomic
from tasks.geometry.harmonics import C0
from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.results.focus import focus_of, up_of
from tasks.splatting.results.ply import finite, unit_quaternions

PAGE = Path(__file__).with_name("viewer.html")
STYLE = Path(__file__).with_name("viewer.css")
SCRIPTS = tuple(Path(__file__).with_name(f"viewer_{part}.js") for part in ("sort", "camera", "draw", "main"))

MAX_GAUSSIANS = 2_000_000
"""Browsers hold a string of half a gigabyte at most, and few machines draw more at a pleasant rate."""

MAX_HARMONICS_BYTES = 32 * 2**20


def write_viewer(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    path: Path,
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    antialiased: bool = False,
    near_plane: float = 0.01,
    title: str = "Splat",
) -> int:
    """Write the page; return how many Gaussians it leaves out, not finite or beyond MAX_GAUSSIANS.

    Colours keep the highest degree of spherical harmonics that fits into 32 MiB: degree 3 up to 699,000 Gaussians.

    Args:
        gaussians: N of them.
        cameras: the views to choose from; it opens with the first one.
        path: of the page.
        background: RGB in [0, 1].
        antialiased: drawn as with the rasteriser's flag of that name.
        near_plane: nearer Gaussians are not drawn, world units.
        title: of the page.

    Raises:
        DatasetError: there is no camera, or no Gaussian that can be drawn.
        StorageError: the page cannot be written.
    """
    kept = _most_seen(finite(gaussians)[0])
    if not cameras or not len(kept):
        raise DatasetError(f"{path}: found {len(cameras)} camera(s) and {len(kept)} Gaussian(s), need 1 of each")
    degree = next(d for d in range(kept.sh_degree, -1, -1) if 16 * d * len(kept) <= MAX_HARMONICS_BYTES)
    words, ranges = _packed(kept)
    data = words.tobytes() + _packed_harmonics(kept.shN.numpy(), degree).tobytes()
    focus = focus_of(cameras)
    meta: dict[str, Any] = ranges | {
        "count": len(kept),
        "total": len(gaussians),
        "degree": degree,
        "antialiased": antialiased,
        "background": list(background),
        "near": near_plane,
        "up": up_of(cameras).tolist(),
        "target": focus.tolist(),
        "speed": float(np.mean([np.linalg.norm(camera.center - focus) for camera in cameras])) / 2 or 1.0,
        "cameras": [_camera(camera) for camera in cameras],
    }
    write_atomic(path, _filled(meta, data, title).encode())
    return len(gaussians) - len(kept)


def _most_seen(kept: Gaussians) -> Gaussians:
    """Return at most MAX_GAUSSIANS, those with the most opacity times area, in their order."""
    if len(kept) <= MAX_GAUSSIANS:
        return kept
    weight = torch.sigmoid(kept.opacities) * torch.exp(2 / 3 * kept.scales.sum(dim=1))
    chosen = torch.topk(weight, MAX_GAUSSIANS).indices.sort().values
    return Gaussians(**{name: tensor[chosen] for name, tensor in kept.tensors().items()})


def _packed(kept: Gaussians) -> tuple[NDArray[np.uint32], dict[str, Any]]:
    """Return the Gaussians as 32 bytes each, (N, 8), and what the page needs to unpack them.

    Words: x, y, z as float32; scales 0 and 1; scale 2 and opacity; w and x; y and z of the rotation; the colour of
    degree 0 in 11, 11 and 10 bits. Two values in one word have 16 bits each, the first one the lower half.
    """
    scales = kept.scales.double().numpy()
    scale_low, scale_span = scales.min(), max(np.ptp(scales), 1e-6)
    colors = 0.5 + C0 * kept.sh0[:, 0].double().numpy()
    color_low, color_span = colors.min(axis=0), np.maximum(np.ptp(colors, axis=0), 1e-6)
    sixteen = [
        (scales - scale_low) / scale_span,
        torch.sigmoid(kept.opacities.double()).numpy()[:, None],
        (unit_quaternions(kept).astype(np.float64) + 1) / 2,
    ]
    halves = np.round(65535 * np.clip(np.concatenate(sixteen, axis=1), 0, 1)).astype(np.uint32)  # (N, 8)
    steps = np.array([2047, 2047, 1023])
    r, g, b = np.round((colors - color_low) / color_span * steps).astype(np.uint32).T
    words = np.empty((len(kept), 8), dtype="<u4")
    words[:, :3] = kept.means.numpy().astype("<f4").view("<u4")
    words[:, 3:7] = halves[:, 0::2] | halves[:, 1::2] << np.uint32(16)
    words[:, 7] = r | g << np.uint32(11) | b << np.uint32(22)
    ranges = {
        "scaleLow": float(scale_low),
        "scaleSpan": float(scale_span),
        "colorLow": color_low.tolist(),
        "colorSpan": color_span.tolist(),
    }
    return words, ranges


def _packed_harmonics(higher: NDArray[np.float32], degree: int) -> NDArray[np.uint8]:
    """Return the coefficients up to `degree` as (N, 16 degree) bytes.

    Bytes: red, green, blue of each coefficient, 127 for zero and 254 for the largest one of this Gaussian, which stands
    in the last two bytes as float16.
    """
    n_values = 3 * ((degree + 1) ** 2 - 1)
    values = higher.reshape(len(higher), -1)[:, :n_values]
    rows = np.zeros((len(higher), 16 * degree), dtype=np.uint8)
    if degree:
        most = np.abs(values).max(axis=1).clip(1e-4, 60000).astype(np.float16)
        steps = np.round(127 * values / most.astype(np.float32)[:, None]) + 127
        rows[:, :n_values] = steps.clip(0, 254).astype(np.uint8)
        rows[:, -2:] = most.astype("<f2")[:, None].view(np.uint8)
    return rows


def _camera(camera: Camera) -> dict[str, Any]:
    """Return a camera as the page reads it."""
    return {
        "name": camera.name,
        "width": camera.width,
        "height": camera.height,
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "position": camera.center.tolist(),
        "rotation": camera.world_to_camera[:3, :3].ravel().tolist(),  # rows: right, down, ahead
    }


def _filled(meta: dict[str, Any], data: bytes, title: str) -> str:
    """Return the page with everything in its place."""
    parts = {
        "title": html.escape(title),
        "style": STYLE.read_text().strip(),
        "scripts": "\n".join(script.read_text().strip() for script in SCRIPTS),
        "meta": json.dumps(meta, allow_nan=False).replace("<", "\\u003c"),  # a name may not end the script
        "data": base64.b64encode(data).decode(),
    }
    first, *rest = PAGE.read_text().split("{{")
    pieces = [first]
    for piece in rest:
        name, _, text = piece.partition("}}")
        pieces += [parts[name], text]
    return "".join(pieces)
