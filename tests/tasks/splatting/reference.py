"""What a rasteriser must draw, said in plain PyTorch: autograd gives the gradients, tiles keep the memory bounded.

Any floating dtype; the tests use float64, the benchmark float32. Nothing here knows how the kernels do it.
Source of the formulas: 3DGS (arXiv:2308.04079) sec. 4 and 6, with the conventions of upstream gsplat: a blur of 0.3 px,
alpha at most 0.999, alpha below 1/255 left out, a pixel is closed before its transmittance falls to 1e-4.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.splatting.render.cameras import Camera
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.render.rasterizer import Rendered

BLUR = 0.3
ALPHA_MIN, ALPHA_MAX, STOP = 1 / 255, 0.999, 1e-4
TILE = 16


@dataclass
class Projected:
    """Gaussians in the image's plane."""

    means2d: Tensor  # (N, 2) pixels
    covariances: Tensor  # (N, 3) xx, xy, yy in pixels^2, blurred
    opacities: Tensor  # (N,)
    colors: Tensor  # (N, 3)
    depths: Tensor  # (N,)
    visible: Tensor  # (N,) bool: in front of the near plane and not transparent
    margin: float  # relative distance of the nearest choice (clamp, cull) to its other side


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Return the real spherical harmonics of unit vectors (N, 3), (N, (degree + 1) ** 2)."""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        terms += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        terms += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
        terms += [0.31539156525252005 * (2 * z * z - x * x - y * y)]
        terms += [-1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)]
    if degree > 2:
        terms += [-0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z]
        terms += [-0.4570457994644658 * y * (4 * z * z - x * x - y * y)]
        terms += [0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y)]
        terms += [-0.4570457994644658 * x * (4 * z * z - x * x - y * y)]
        terms += [1.445305721320277 * z * (x * x - y * y), -0.5900435899266435 * x * (x * x - 3 * y * y)]
    return torch.stack(terms, -1)


def rotations(quats: Tensor) -> Tensor:
    """Return the rotation matrices of quaternions w x y z of any length, (N, 3, 3)."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def colors_from(gaussians: Gaussians, place: Tensor, sh_degree: int) -> Tensor:
    """Return the colours (N, 3) seen from a place (3,), which may be below 0."""
    basis = sh_basis(F.normalize(gaussians.means - place, dim=-1), sh_degree)
    harmonics = torch.cat([gaussians.sh0, gaussians.shN], 1)[:, : basis.shape[1]]
    return (basis[:, :, None] * harmonics).sum(1) + 0.5


@torch.no_grad()
def nearest(values: Tensor, limit: float) -> float:
    """Return the smallest relative distance of any value to the limit; 1 in float32, where nobody asks."""
    if values.dtype == torch.float32 or not values.numel():
        return 1.0
    return float((values / limit - 1).abs().min())


@torch.no_grad()
def nearness(depths: Tensor) -> float:
    """Return the smallest relative distance of sorted depths to each other."""
    return float((depths[1:] / depths[:-1] - 1).min()) if len(depths) > 1 else 1.0


def project(
    gaussians: Gaussians, camera: Camera, pose: Tensor, *, sh_degree: int, antialiased: bool, near_plane: float
) -> Projected:
    """Return the Gaussians as the camera at `pose` (4, 4) sees them."""
    rotation, translation = pose[:3, :3], pose[:3, 3]
    inside = gaussians.means @ rotation.T + translation
    front = inside[:, 2] >= near_plane
    margin = nearest(inside[:, 2], near_plane)
    # What lies behind is drawn nowhere; a harmless place keeps its gradients finite.
    inside = torch.where(front[:, None], inside, torch.tensor([0.0, 0.0, 1.0], dtype=inside.dtype))
    x, y, z = inside.unbind(-1)
    means2d = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], -1)

    spare_x, spare_y = 0.15 * camera.width / camera.fx, 0.15 * camera.height / camera.fy
    limits = [
        (x / z, -camera.cx / camera.fx - spare_x, (camera.width - camera.cx) / camera.fx + spare_x),
        (y / z, -camera.cy / camera.fy - spare_y, (camera.height - camera.cy) / camera.fy + spare_y),
    ]
    margin = min(margin, *(nearest(slope[front], edge) for slope, low, high in limits for edge in (low, high)))
    u, v = (slope.clamp(low, high) for slope, low, high in limits)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / z, zero, -camera.fx * u / z], -1),
            torch.stack([zero, camera.fy / z, -camera.fy * v / z], -1),
        ],
        -2,
    )
    axes = rotations(gaussians.quats) * gaussians.scales.exp()[:, None, :]
    root = jacobian @ rotation @ axes
    sharp = root @ root.transpose(1, 2)
    covariance = sharp + BLUR * torch.eye(2, dtype=sharp.dtype)
    opacities = torch.sigmoid(gaussians.opacities)
    if antialiased:
        opacities = opacities * (torch.linalg.det(sharp) / torch.linalg.det(covariance)).sqrt()

    colors = colors_from(gaussians, -rotation.T @ translation, sh_degree)
    if len(colors):
        margin = min(margin, float(colors.detach().abs().min()))
    packed = torch.stack([covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]], -1)
    visible = front & (opacities >= ALPHA_MIN)
    return Projected(means2d, packed, opacities, colors.clamp_min(0), z, visible, margin)


@dataclass
class Tile:
    """What is behind one tile's pixels."""

    colors: Tensor  # (h, w, 3)
    transmittances: Tensor  # (h, w)
    depths: Tensor  # (h, w), weighted sums
    margin: float


def draw_tile(seen: Projected, chosen: Tensor, top: int, left: int, height: int, width: int) -> Tile:
    """Blend the Gaussians numbered in `chosen`, nearest first, over height x width pixels."""
    means, (xx, xy, yy) = seen.means2d[chosen], seen.covariances[chosen].unbind(-1)
    det = xx * yy - xy * xy
    rows = torch.arange(top, top + height, dtype=means.dtype) + 0.5
    columns = torch.arange(left, left + width, dtype=means.dtype) + 0.5
    dy = rows[None, :, None] - means[:, 1, None, None]  # (n, h, 1)
    dx = columns[None, None, :] - means[:, 0, None, None]  # (n, 1, w)
    a, b, c = (part[:, None, None] for part in (yy / det, -xy / det, xx / det))
    raw = seen.opacities[chosen, None, None] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    alphas = torch.where(raw >= ALPHA_MIN, raw.clamp_max(ALPHA_MAX), 0)  # (n, h, w)
    open_after = torch.cumprod(1 - alphas.detach(), 0)
    margin = min(nearest(raw, ALPHA_MIN), nearest(raw, ALPHA_MAX), nearest(open_after, STOP))
    alphas = torch.where(open_after > STOP, alphas, 0)
    through = torch.cumprod(1 - alphas, 0)
    before = torch.cat([torch.ones_like(through[:1]), through[:-1]])
    weights = alphas * before
    colors = torch.einsum("nhw,nc->hwc", weights, seen.colors[chosen])
    depths = torch.einsum("nhw,n->hw", weights.detach(), seen.depths[chosen].detach())
    last = through[-1] if len(through) else means.new_ones(height, width)
    return Tile(colors, last, depths, margin)


def reaches(seen: Projected) -> tuple[Tensor, Tensor]:
    """Return how far alpha stays at 1/255 or above, along x and y, pixels."""
    reach = torch.sqrt(2 * torch.log((255 * seen.opacities).clamp_min(1)))
    return reach * seen.covariances[:, 0].sqrt(), reach * seen.covariances[:, 2].sqrt()


@torch.no_grad()
def boxes(seen: Projected) -> tuple[Tensor, Tensor]:
    """Return the visible Gaussians' numbers, nearest first, and their boxes left, right, top, bottom."""
    order = torch.argsort(seen.depths, stable=True)
    order = order[seen.visible[order]]
    # A hundredth of a pixel more than needed: the box must not decide what alpha decides.
    rx, ry = (reach[order] + 0.01 for reach in reaches(seen))
    x, y = seen.means2d[order].unbind(-1)
    return order, torch.stack([x - rx, x + rx, y - ry, y + ry])


def radii(seen: Projected, camera: Camera) -> Tensor:
    """Return how far each Gaussian reaches, whole pixels along the longer axis of its box; 0: not in the image."""
    with torch.no_grad():
        rx, ry = reaches(seen)
        x, y = seen.means2d.unbind(-1)
        hit = seen.visible & (x + rx > 0) & (x - rx < camera.width) & (y + ry > 0) & (y - ry < camera.height)
        return torch.where(hit, torch.maximum(rx, ry).ceil(), 0)


def draw(seen: Projected, camera: Camera, background: Tensor, *, with_depth: bool) -> tuple[Rendered, float]:
    """Return the image of projected Gaussians, and the margin of `render`."""
    order, (lefts, rights, tops, bottoms) = boxes(seen)
    bands, margin = [], min(seen.margin, nearness(seen.depths[order]))
    for top in range(0, camera.height, TILE):
        band = []
        in_band = ((bottoms > top) & (tops < top + TILE)).nonzero()[:, 0]
        for left in range(0, camera.width, TILE):
            size = min(TILE, camera.height - top), min(TILE, camera.width - left)
            chosen = order[in_band[(rights[in_band] > left) & (lefts[in_band] < left + TILE)]]
            tile = draw_tile(seen, chosen, top, left, *size)
            margin = min(margin, tile.margin)
            band.append(torch.cat([tile.colors, tile.transmittances[..., None], tile.depths[..., None]], -1))
        bands.append(torch.cat(band, 1))
    picture = torch.cat(bands, 0)
    colors, through, depths = picture[..., :3], picture[..., 3], picture[..., 4].detach()
    alphas = 1 - through
    shown = Rendered(
        colors + through[..., None] * background,
        alphas,
        torch.where(alphas > 0, depths / alphas.clamp_min(1e-12), 0).detach() if with_depth else None,
        seen.means2d,
        radii(seen, camera),
    )
    return shown, margin


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    sh_degree: int,
    background: Tensor | None = None,
    antialiased: bool = False,
    pose: Tensor | None = None,
    with_depth: bool = False,
    near_plane: float = 0.01,
) -> tuple[Rendered, float]:
    """Return what a `Rasterizer` returns, and the margin.

    The margin is the relative distance of the closest of all choices (near plane, clamps, alpha's and the
    transmittance's thresholds) to being made the other way: where it is smaller than what float32 resolves, two right
    implementations may differ by a whole 1/255.
    """
    dtype = gaussians.means.dtype
    pose = torch.as_tensor(camera.world_to_camera, dtype=dtype) if pose is None else pose
    background = torch.zeros(3, dtype=dtype) if background is None else background
    seen = project(gaussians, camera, pose, sh_degree=sh_degree, antialiased=antialiased, near_plane=near_plane)
    if seen.means2d.requires_grad:
        seen.means2d.retain_grad()
    return draw(seen, camera, background, with_depth=with_depth)
