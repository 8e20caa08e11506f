"""Writes the demo's ten parts of similar look, and eight that no training knows, as STL files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import trimesh
from manifold3d import CrossSection, Manifold
from trimesh.exchange.stl import export_stl

from tasks.base.workspace import write_atomic
from tasks.recognition.meshes.modelling import around, at, block, bore, disc, turned, united, upright


def make_demo_parts(folder: Path) -> list[Path]:
    """Write ten parts, in millimetres; return their files, sorted.

    Two flanges differ in the number of their holes, two brackets in a rib, two shafts in their grooves.

    Raises:
        StorageError: the folder cannot be written.
    """
    return _write(folder, _PARTS)


def make_unknown_parts(folder: Path) -> list[Path]:
    """Write eight other parts of the same kind, to see whether they are refused; return their files, sorted.

    Raises:
        StorageError: the folder cannot be written.
    """
    return _write(folder, _UNKNOWN)


def _write(folder: Path, parts: Mapping[str, Callable[[], Manifold]]) -> list[Path]:
    paths = []
    for name, make in sorted(parts.items()):
        mesh = make().to_mesh()
        solid = trimesh.Trimesh(np.asarray(mesh.vert_properties)[:, :3], np.asarray(mesh.tri_verts), process=False)
        paths.append(folder / f"{name}.stl")
        write_atomic(paths[-1], export_stl(solid))
    return paths


def _flange(n_holes: int) -> Manifold:
    hub = turned([(0, 8), (21, 8), (17, 13), (17, 24), (16, 25), (0, 25)])
    return disc(40, 0, 9) + hub - bore(11, 0, 25) - around(bore(4, 0, 9), n_holes, 30)


def _washer() -> Manifold:
    return disc(22, 0, 4.5, 1.2) - bore(11, 0, 4.5)


def _hexagon(width: float) -> CrossSection:
    return CrossSection.circle(width / 3**0.5, 6)


def _nut() -> Manifold:
    # The corners of a nut are turned off by a cone at both ends.
    rounded = turned([(0, 0), (15, 0), (18, 2), (18, 12), (15, 14), (0, 14)])
    return (_hexagon(30).extrude(14) ^ rounded) - bore(8.5, 0, 14, 1.2)


def _stepped_shaft() -> Manifold:
    return upright(united([disc(9, -50, -22, 1.2), disc(14, -22, 18), disc(11, 16, 38), disc(7, 36, 52, 1.2)]))


def _grooved_shaft() -> Manifold:
    def groove(middle: float, radius: float, floor: float) -> Manifold:
        low, high = middle - 1.5, middle + 1.5
        return turned([(floor, low), (radius + 2, low), (radius + 2, high), (floor, high)])

    keyway = block(16, 5, 4, 2.4, 0.1).rotate((0, 90, 0)).translate((10, 0, -2))
    shaft = united([disc(9, -50, -22, 1.2), disc(14, -22, 30), disc(9, 28, 52, 1.2)])
    return upright(shaft - groove(-38, 9, 7.5) - groove(-12, 14, 12) - groove(20, 14, 12) - keyway)


def _angle(leg: float) -> Manifold:
    """Return two plates at a right angle, each 44 mm wide."""
    foot = block(44, leg, 6, 3).translate((0, leg / 2, 0))
    back = block(44, leg, 6, 3).rotate((90, 0, 0)).translate((0, 6, leg / 2))
    return foot + back


def _across(tool: Manifold, x: float, z: float) -> Manifold:
    """Return a tool along z laid along y, at a place of the upright plate."""
    return tool.rotate((90, 0, 0)).translate((x, 6, z))


def _angle_bracket() -> Manifold:
    drill = bore(3.5, 0, 6)
    holes = at(drill, [(-12, 32), (12, 32)]) + _across(drill, -12, 32) + _across(drill, 12, 32)
    return _angle(46) - holes


def _ribbed_bracket() -> Manifold:
    rib = CrossSection([np.array([(4, 4), (38, 4), (4, 38)])]).extrude(6).rotate((90, 0, 90)).translate((-3, 0, 0))
    drill = bore(5, 0, 6)
    holes = at(drill, [(-13, 26), (13, 26)]) + _across(drill, -13, 26) + _across(drill, 13, 26)
    return _angle(46) + rib - holes


def _tee() -> Manifold:
    collars = disc(15, -36, -26) + disc(15, 26, 36)
    branch = disc(11, 0, 36) + disc(15, 26, 36)
    body = upright(disc(11, -36, 36) + collars) + branch
    return body - upright(bore(7.5, -36, 36)) - bore(7.5, 0, 36)


def _clevis() -> Manifold:
    fork = block(40, 30, 52, 4) - Manifold.cube((18, 40, 40), center=True).translate((0, 0, 38))
    rounded = upright(disc(15, -30, 30, 0.1)).translate((0, 0, 37)) + Manifold.cube((60, 40, 37)).translate(
        (-30, -20, 0)
    )
    return (fork ^ rounded) - upright(bore(6.5, -20, 20)).translate((0, 0, 37)) - bore(6, 0, 18)


_PARTS: dict[str, Callable[[], Manifold]] = {
    "angle_bracket": _angle_bracket,
    "clevis": _clevis,
    "flange_4_holes": lambda: _flange(4),
    "flange_6_holes": lambda: _flange(6),
    "grooved_shaft": _grooved_shaft,
    "nut": _nut,
    "ribbed_bracket": _ribbed_bracket,
    "stepped_shaft": _stepped_shaft,
    "tee": _tee,
    "washer": _washer,
}


def _gear() -> Manifold:
    tooth = CrossSection([np.array([(27, -4), (34, -2), (34, 2), (27, 4)])])
    wheel = sum((tooth.rotate(360 * i / 20) for i in range(20)), CrossSection.circle(28, 72)).extrude(12)
    return wheel + disc(14, 0, 20) - bore(7, 0, 20) - around(bore(4.5, 0, 12), 5, 20)


def _pulley() -> Manifold:
    rim = turned([(0, 0), (30, 0), (30, 3), (22, 9), (22, 11), (30, 17), (30, 20), (0, 20)])
    return rim - bore(8, 0, 20) - (disc(18, -1, 5) - disc(12, -2, 6)) - (disc(18, 15, 21) - disc(12, 14, 22))


def _elbow() -> Manifold:
    bend = (CrossSection.circle(10, 48).translate((24, 0))).revolve(72, 90).rotate((90, 0, 0))
    hollow = (CrossSection.circle(7, 48).translate((24, 0))).revolve(72, 90).rotate((90, 0, 0))
    first = disc(16, -8, 0).translate((24, 0, 0))
    last = upright(disc(16, -8, 0)).translate((0, 0, 24))
    drills = bore(7, -8, 0).translate((24, 0, 0)) + upright(bore(7, -8, 0)).translate((0, 0, 24))
    return (bend + first + last) - hollow - drills


def _cap_screw() -> Manifold:
    return disc(13, 0, 16, 1) + disc(8, -46, 1, 1.5) - _hexagon(13).extrude(10).translate((0, 0, 8))


def _slotted_plate() -> Manifold:
    slot = block(28, 9, 10, 4.4, 0.1).translate((0, 0, -2))
    return block(76, 48, 6, 8) - at(slot, [(-14, 12), (14, -12)]) - at(bore(4, 0, 6), [(28, 14), (-28, -14)])


def _sleeve() -> Manifold:
    return disc(15, 0, 44) + disc(23, 0, 5) - bore(11, 0, 44, 1.2)


def _bearing_block() -> Manifold:
    housing = upright(disc(21, -14, 14, 1)).translate((0, 0, 26)) + Manifold.cube((28, 42, 26)).translate((-14, -21, 0))
    foot = block(28, 86, 10, 4)
    return housing + foot - upright(bore(12, -14, 14)).translate((0, 0, 26)) - at(bore(4.5, 0, 10), [(0, -33), (0, 33)])


def _hinge() -> Manifold:
    leaf = block(50, 34, 4, 2).translate((0, 20, 0)) - at(bore(3, 0, 4), [(-16, 26), (16, 26), (0, 18)])
    knuckles = united(upright(disc(6, x - 7, x + 7)).translate((0, 0, 4)) for x in (-18, 18))
    return leaf + knuckles - upright(bore(2.5, -25, 25)).translate((0, 0, 4))


_UNKNOWN: dict[str, Callable[[], Manifold]] = {
    "bearing_block": _bearing_block,
    "cap_screw": _cap_screw,
    "elbow": _elbow,
    "gear": _gear,
    "hinge": _hinge,
    "pulley": _pulley,
    "sleeve": _sleeve,
    "slotted_plate": _slotted_plate,
}
