"""Reads a folder of meshes as parts, mends what can be mended, and tells all faults in one go."""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from gpu_pools.stopping import look
from tasks.base.errors import DatasetError
from tasks.base.outside import read_bytes, walk
from tasks.base.workspace import allowed_link
from tasks.recognition.meshes.mesh_files import MESH_BYTES, MESH_SUFFIXES, read_triangles

Faces = NDArray[np.int64]
Points = NDArray[np.float64]

_OTHER_UNITS = 200.0
"""Times larger than the others: metres as millimetres make a thousand, a long part beside short ones 20."""
_FAR = 1e4  # diameters from the origin: float32 is left with a thousandth of a part's diameter
_HUGE = 1e15  # coordinates beyond say nothing, and their squares leave float32
_MANY_BODIES = 1000
_MAX_TURNED = 200_000  # faces: turning takes a minute for a million


@dataclass(frozen=True, slots=True)
class Part:
    """A mesh that can be rendered, and what is known of it."""

    name: str
    file: str  # below its folder
    digest: str
    vertices: Points  # (V, 3), units of the file
    faces: Faces  # (F, 3), numbers of vertices, counter-clockwise seen from outside
    n_bodies: int
    watertight: bool
    outward: bool  # closed, with all faces turned outwards: only their fronts can be seen
    notes: tuple[str, ...]  # sentences without subject: "is open, ..."

    @property
    def low(self) -> Points:
        return self.vertices.min(axis=0)

    @property
    def size(self) -> Points:
        """Edges of the box around it, units of the file."""
        return np.ptp(self.vertices, axis=0)

    @property
    def center(self) -> Points:
        """Middle of the box around it, units of the file."""
        return self.low + self.size / 2

    @property
    def diameter(self) -> float:
        """Of the sphere around the middle that holds it, units of the file."""
        return 2 * float(np.linalg.norm(self.vertices - self.center, axis=1).max())

    def row(self) -> dict[str, Any]:
        """Return its row of parts.json."""
        return {
            "name": self.name,
            "file": self.file,
            "digest": self.digest,
            "n_faces": len(self.faces),
            "n_bodies": self.n_bodies,
            "watertight": self.watertight,
            "size": [float(f"{edge:.6g}") for edge in self.size],
            "diameter": float(f"{self.diameter:.6g}"),
            "notes": list(self.notes),
        }


def read_parts(source: Path, least: int = 1) -> list[Part]:
    """Return the parts of a folder, sorted by name; a part is called as its file, without the suffix.

    Args:
        source: a folder of meshes, searched with its sub-folders, or one file.
        least: how many are needed.

    Raises:
        DatasetError: there are fewer, two would have one name, or files cannot be used: all of them are told.
        ConfigError: a link leads outside the allowed roots.
    """
    folder, files = (source.parent, [source]) if source.is_file() else (source, find_meshes(source))
    if len(files) < least:
        kinds = ", ".join(sorted(suffix[1:].upper() for suffix in MESH_SUFFIXES))
        raise DatasetError(f"found {len(files)} meshes, need at least {least} of {kinds}: {source}")
    names: dict[str, Path] = {}
    parts, faults = [], []
    for path in files:
        look()
        if path.stem in names:
            faults.append(f"{path.name} has the name of {names[path.stem].name}, need one file for each part")
            continue
        names[path.stem] = path
        try:
            parts.append(read_part(path, path.relative_to(folder).as_posix()))
        except DatasetError as exc:
            faults.append(f"{path.relative_to(folder)} {exc}")
    if faults:
        raise DatasetError(f"{len(faults)} of {len(files)} meshes cannot be used in {folder}: {'; '.join(faults)}")
    return _compared(sorted(parts, key=lambda part: part.name))


def find_meshes(folder: Path) -> list[Path]:
    """Return the meshes below a folder by their suffix, sorted, hidden ones left out.

    Raises:
        DatasetError: it is no folder, or cannot be read.
        ConfigError: a link leads outside the allowed roots.
    """
    if not folder.is_dir():
        raise DatasetError(f"found {'a file' if folder.exists() else 'nothing'}, need a folder of meshes: {folder}")
    found = (Path(root, name) for root, _, names in walk(folder) for name in names)
    return sorted(allowed_link(path) for path in found if path.suffix.lower() in MESH_SUFFIXES)


def read_part(path: Path, shown: str) -> Part:
    """Return the part of one file, mended.

    Args:
        shown: its name in the data set.

    Raises:
        DatasetError: it cannot be used; the message does not name the file.
    """
    data = read_bytes(path, DatasetError, MESH_BYTES)
    vertices, faces, notes = read_triangles(path, data)
    return mended(path.stem, shown, hashlib.blake2b(data, digest_size=16).hexdigest(), vertices, faces, notes)


def mended(name: str, file: str, digest: str, vertices: Points, faces: Faces, notes: Sequence[str] = ()) -> Part:
    """Return a part of these triangles: without what is no triangle, joined, and turned outwards.

    Raises:
        DatasetError: nothing solid is left.
    """
    said = list(notes)
    vertices, faces = _finite(vertices, faces, said)
    vertices, faces = _joined(vertices, faces)
    faces = _proper(vertices, faces, said)
    mesh = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    mesh.remove_unreferenced_vertices()
    n_bodies = _count_bodies(mesh.faces)
    if n_bodies > 1:
        kind = "is an assembly or a scan" if n_bodies >= _MANY_BODIES else "is an assembly"
        said.append(f"{kind}: its {n_bodies} bodies do not touch, and are rendered as one part")
    _turn_outwards(mesh, n_bodies, said)
    closed, outward = mesh.is_watertight, mesh.is_volume
    part = Part(name, file, digest, np.array(mesh.vertices), np.array(mesh.faces), n_bodies, closed, outward, ())
    return replace(part, notes=(*said, *_remarks(part, mesh)))


def _finite(vertices: Points, faces: Faces, said: list[str]) -> tuple[Points, Faces]:
    """Drop the faces of vertices that are no numbers, or too large for any."""
    with np.errstate(invalid="ignore"):
        usable = np.all(np.abs(vertices) < _HUGE, axis=1)  # false for NaN
    kept = np.all(usable[faces], axis=1)
    if not kept.any():
        raise DatasetError(f"has no face whose corners are finite numbers below {_HUGE:.0e}")
    if not kept.all():
        said.append(f"had {(~kept).sum()} faces with corners that are NaN, infinite or gigantic: dropped")
    return np.where(usable[:, None], vertices, 0.0), faces[kept]


def _joined(vertices: Points, faces: Faces) -> tuple[Points, Faces]:
    """Give corners at the same place the same number: an STL has three of its own for each face."""
    places = vertices + 0.0  # -0 and 0 are one place
    order = np.lexsort(places.T)  # five times as fast as np.unique of rows
    places = places[order]
    first = np.concatenate([[True], np.any(places[1:] != places[:-1], axis=1)])
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(first) - 1
    return places[first], numbers[faces]


def _proper(vertices: Points, faces: Faces, said: list[str]) -> Faces:
    """Drop faces without area, and those that are there twice."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    longest = np.maximum.reduce([((b - a) ** 2).sum(1), ((c - a) ** 2).sum(1), ((c - b) ** 2).sum(1)])
    proper = area > 1e-9 * longest
    if n_flat := int((~proper).sum()):
        said.append(f"had {n_flat} faces without area: dropped")
    faces = faces[proper]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    if n_twice := len(faces) - len(first):
        said.append(f"had {n_twice} faces twice: dropped")
    if len(first) < 4:
        raise DatasetError(f"has {len(first)} faces with an area, need at least 4")
    return faces[np.sort(first)]


def _count_bodies(faces: NDArray[Any]) -> int:
    """Return how many pieces share no vertex."""
    n = int(faces.max()) + 1
    starts, ends = faces.reshape(-1), np.roll(faces, 1, axis=1).reshape(-1)
    edges = coo_matrix((np.ones(len(starts), np.int8), (starts, ends)), shape=(n, n))
    return int(connected_components(edges, directed=False, return_labels=False))


def _turn_outwards(mesh: trimesh.Trimesh, n_bodies: int, said: list[str]) -> None:
    """Make neighbouring faces turn the same way, and closed bodies face outwards."""
    before = np.array(mesh.faces)
    consistent = mesh.is_winding_consistent
    if not consistent and len(before) > _MAX_TURNED:
        said.append("has faces inside out, too many to turn: each is shaded as seen from its front")
        return
    if not consistent:
        trimesh.repair.fix_winding(mesh)
    if mesh.is_watertight:
        trimesh.repair.fix_inversion(mesh, multibody=n_bodies > 1)
    if turned := int((before != mesh.faces).any(axis=1).sum()):
        said.append(f"had {turned} of {len(before)} faces inside out: turned")


def _remarks(part: Part, mesh: trimesh.Trimesh) -> list[str]:
    """Say what was not mended, and what it means for the images."""
    said = []
    if not part.watertight:
        _, counts = np.unique(mesh.faces_unique_edges, return_counts=True)
        n_open, n_crowded = int((counts == 1).sum()), int((counts > 2).sum())
        what = f"{n_open} edges belong to one face only" if n_open else f"{n_crowded} edges belong to three faces"
        said.append(f"is not closed: {what}")
    if part.size.min() < 1e-6 * part.size.max():
        said.append("is flat: it has no thickness")
    away = float(np.linalg.norm(part.center)) / part.diameter
    if away > _FAR:
        said.append(f"lies {away:.0e} times its diameter from the origin, where files keep few digits")
    return said


def _compared(parts: Sequence[Part]) -> list[Part]:
    """Add to the notes of each part what its neighbours show: other units, or the same shape."""
    diameters = [part.diameter for part in parts]
    files: dict[str, str] = {}
    compared = []
    for part in parts:
        said = list(part.notes)
        others = [diameter for other, diameter in zip(parts, diameters, strict=True) if other is not part]
        ratio = part.diameter / statistics.median(others) if others else 1.0
        if not 1 / _OTHER_UNITS < ratio < _OTHER_UNITS:
            times = f"{ratio:.0f} times larger" if ratio > 1 else f"{1 / ratio:.0f} times smaller"
            said.append(f"is {times} than the others, perhaps in other units: all parts are rendered at like sizes")
        if part.digest in files:
            said.append(f"is the same file as {files[part.digest]}: no image tells them apart")
        files.setdefault(part.digest, part.file)
        compared.append(replace(part, notes=tuple(said)))
    return compared
