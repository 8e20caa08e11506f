"""Reads and writes splats as PLY in the layout of the original 3DGS trainer.

Source: 3DGS (arXiv:2308.04079), the file `point_cloud.ply` of its published models.
"""

from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base.errors import DatasetError
from tasks.base.outside import CLOUD_BYTES, read_bytes
from tasks.base.workspace import replacing
from tasks.splatting.render.gaussians import Gaussians

MAX_HEADER_BYTES = 65536


def finite(gaussians: Gaussians) -> tuple[Gaussians, int]:
    """Return the Gaussians that any program can draw, float32 on the CPU, and how many were left out.

    Left out: values that are not finite, and quaternions of length zero.
    """
    flat = {name: tensor.detach().cpu().float() for name, tensor in gaussians.tensors().items()}
    good = torch.ones(len(gaussians), dtype=torch.bool)
    for tensor in flat.values():
        good &= tensor.isfinite().reshape(len(good), prod(tensor.shape[1:])).all(dim=1)
    good &= flat["quats"].norm(dim=1) > 0
    return Gaussians(**{name: tensor[good] for name, tensor in flat.items()}), int((~good).sum())


def unit_quaternions(gaussians: Gaussians) -> NDArray[np.float32]:
    """Return the rotations as quaternions of length one, (N, 4) w x y z."""
    quats = gaussians.quats.double()
    return np.asarray((quats / quats.norm(dim=1, keepdim=True)).float().numpy())


def columns(n_rest: int) -> list[str]:
    """Return the names of the columns in their order, with `n_rest` coefficients above degree 0."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(3 * n_rest)]
    return [*names, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


def write_ply(gaussians: Gaussians, path: Path) -> int:
    """Write the splat as binary PLY; return how many Gaussians were left out because they are not finite.

    Opacities stay logits and scales logarithms; rotations are brought to length one; normals are zero.

    Raises:
        StorageError: the file cannot be written.
    """
    kept, n_left_out = finite(gaussians)
    rest = kept.shN.transpose(1, 2).reshape(
        len(kept), 3 * kept.shN.shape[1]
    )  # (N, 3 (K - 1)): all of red, then green, then blue
    parts = [kept.means, torch.zeros_like(kept.means), kept.sh0[:, 0], rest, kept.opacities[:, None], kept.scales]
    table = np.concatenate([*(part.numpy() for part in parts), unit_quaternions(kept)], axis=1)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(kept)}"]
    header += [f"property float {name}" for name in columns(kept.shN.shape[1])]
    with replacing(path) as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode())
        file.write(np.ascontiguousarray(table, dtype="<f4").tobytes())
    return n_left_out


def read_ply(path: Path) -> Gaussians:
    """Return the splat of a PLY file of 3DGS, whichever order its columns have; further ones are passed over.

    Raises:
        DatasetError: it is no binary PLY of float columns, lacks one, or is cut off.
    """
    data = read_bytes(path, DatasetError, CLOUD_BYTES)
    n_vertices, names, start = _header(data, path)
    needed = n_vertices * len(names) * 4
    if len(data) - start < needed:
        raise DatasetError(f"{path} is cut off: found {len(data) - start} bytes of Gaussians, need {needed}")
    table = np.frombuffer(data, "<f4", n_vertices * len(names), start).reshape(n_vertices, len(names))
    n_rest = sum(name.startswith("f_rest_") for name in names) // 3
    missing = [name for name in columns(n_rest) if name not in names and name not in ("nx", "ny", "nz")]
    if missing or n_rest not in (0, 3, 8, 15):
        found = f"lacks {', '.join(missing)}" if missing else f"has {n_rest} coefficients above degree 0"
        raise DatasetError(f"{path} {found}; need the columns of a 3DGS splat of degree 0 to 3")

    def of(*wanted: str) -> torch.Tensor:
        return torch.from_numpy(table[:, [names.index(name) for name in wanted]].astype(np.float32))

    rest = of(*(f"f_rest_{i}" for i in range(3 * n_rest))) if n_rest else torch.zeros(n_vertices, 0)
    return Gaussians(
        means=of("x", "y", "z"),
        scales=of("scale_0", "scale_1", "scale_2"),
        quats=of("rot_0", "rot_1", "rot_2", "rot_3"),
        opacities=of("opacity")[:, 0],
        sh0=of("f_dc_0", "f_dc_1", "f_dc_2")[:, None],
        shN=rest.reshape(n_vertices, 3, n_rest).transpose(1, 2).contiguous(),
    )


def _header(data: bytes, path: Path) -> tuple[int, list[str], int]:
    """Return how many vertices there are, their columns, and where the first one starts."""
    end = data.find(b"end_header\n", 0, MAX_HEADER_BYTES)
    if not data.startswith(b"ply") or end < 0:
        raise DatasetError(f"{path} does not start as a PLY file does")
    n_vertices, names = -1, []
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, _] if kind != "binary_little_endian":
                raise DatasetError(f"{path} is {kind}, need binary_little_endian")
            case ["element", "vertex", count] if n_vertices < 0 and count.isdigit():
                n_vertices = int(count)
            case ["element", *rest]:
                raise DatasetError(f"{path} has an element {' '.join(rest)}, need one element, vertex")
            case ["property", kind, name]:
                if kind not in ("float", "float32"):
                    raise DatasetError(f"{path} has {name} as {kind}, need float")
                names.append(name)
    if n_vertices < 0:
        raise DatasetError(f"{path} has no element vertex")
    return n_vertices, names, end + len(b"end_header\n")
