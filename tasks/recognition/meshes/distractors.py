"""Shapes that are no part: made up by seed, of the same look as parts, or those of a folder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from manifold3d import CrossSection, Manifold

from tasks.recognition.meshes.machine_shapes import bracket, housing, plate, profile, turned_part, wheel
from tasks.recognition.meshes.parts import Part, mended, read_parts

_SEGMENTS = 48


def find_distractors(folder: Path | None, n: int, seed: int) -> list[Part]:
    """Return the meshes of a folder, or n shapes made up.

    Raises:
        DatasetError: as `read_parts`.
    """
    return read_parts(folder) if folder is not None else [make_distractor(seed, number) for number in range(n)]


def make_distractor(seed: int, number: int) -> Part:
    """Return a shape of the number's family; the same seed and number give the same.

    One in seven is a few pieces put together at random; the others look as if somebody had designed them.
    """
    rng = np.random.default_rng([seed, 0xD1, number])
    name = f"shape_{number:03}"
    solid = _FAMILIES[number % len(_FAMILIES)](rng)
    # Faces that lie in one plane leave slivers behind.
    mesh = max(solid.simplify(0.01).decompose(), key=lambda piece: piece.volume()).to_mesh()
    vertices = np.asarray(mesh.vert_properties, np.float64)[:, :3]
    part = mended(name, name, f"{seed}/{number}", vertices, np.asarray(mesh.tri_verts, np.int64))
    return replace(part, notes=())  # nobody can do anything about them


def _pieces(rng: np.random.Generator) -> Manifold:
    """Return a few pieces put together anyhow, with holes."""
    solid = _piece(rng)
    for _ in range(rng.integers(0, 3)):
        solid += _moved(_piece(rng), rng)
    for _ in range(rng.integers(0, 5)):
        cut = solid - _moved(_drill(rng), rng)
        if cut.volume() > 0.3 * solid.volume():
            solid = cut
    return solid


_FAMILIES = (turned_part, plate, bracket, housing, profile, wheel, _pieces)


def _piece(rng: np.random.Generator) -> Manifold:
    """Return a plate, block, disc, tube, cone, prism or ring of about 40 units."""
    a, b, c = rng.uniform(8, 44, 3)
    kind = rng.integers(7)
    if kind == 0:
        return Manifold.cube((a, b, c), center=True)
    if kind == 1:
        return Manifold.cube((a + 15, b + 10, rng.uniform(3, 9)), center=True)
    if kind == 2:
        return Manifold.cylinder(c, a / 2, circular_segments=_SEGMENTS, center=True)
    if kind == 3:
        tube = CrossSection.circle(a / 2 + 6, _SEGMENTS) - CrossSection.circle(a / 2 + 6 - rng.uniform(2, 5), _SEGMENTS)
        return tube.extrude(c).translate((0, 0, -c / 2))
    if kind == 4:
        return Manifold.cylinder(c, a / 2, a / 2 * rng.uniform(0.2, 0.8), _SEGMENTS, center=True)
    if kind == 5:
        return CrossSection.circle(a / 2 + 4, int(rng.integers(3, 9))).extrude(c / 2).translate((0, 0, -c / 4))
    ring = CrossSection.circle(rng.uniform(2, 6), 20).translate((a / 2 + 8, 0))
    return ring.revolve(_SEGMENTS)


def _drill(rng: np.random.Generator) -> Manifold:
    if rng.random() < 0.7:
        return Manifold.cylinder(200, rng.uniform(2, 10), circular_segments=_SEGMENTS, center=True)
    return Manifold.cube((rng.uniform(4, 20), rng.uniform(4, 20), 200), center=True)


def _moved(tool: Manifold, rng: np.random.Generator) -> Manifold:
    """Return a tool along one of the axes, off the middle."""
    turns = ((0, 0, 0), (90, 0, 0), (0, 90, 0))
    x, y, z = rng.uniform(-18, 18, 3) * (rng.random(3) < 0.7)
    return tool.rotate(turns[rng.integers(3)]).translate((x, y, z))
