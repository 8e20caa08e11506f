"""The solids that parts are made of: turned, milled and drilled, in millimetres."""

from collections.abc import Iterable, Sequence

import numpy as np
from manifold3d import CrossSection, JoinType, Manifold

SEGMENTS = 72
"""Of a full circle: a turned edge of 40 mm is 0.04 mm off at most."""


def turned(profile: Sequence[tuple[float, float]]) -> Manifold:
    """Return what a lathe makes around z of a closed profile of (radius, z), counter-clockwise."""
    return CrossSection([np.array(profile, dtype=np.float64)]).revolve(SEGMENTS)


def disc(radius: float, low: float, high: float, chamfer: float = 0.6) -> Manifold:
    """Return a disc around z from `low` to `high`, both of its edges broken."""
    inner = radius - chamfer
    return turned([(0, low), (inner, low), (radius, low + chamfer), (radius, high - chamfer), (inner, high), (0, high)])


def bore(radius: float, low: float, high: float, chamfer: float = 0.5) -> Manifold:
    """Return what drilling a hole around z takes away, countersunk a little at both ends."""
    wide, over = radius + chamfer, 1.0
    return turned(
        [
            (0, low - over),
            (wide, low - over),
            (wide, low),
            (radius, low + chamfer),
            (radius, high - chamfer),
            (wide, high),
            (wide, high + over),
            (0, high + over),
        ]
    )


def block(width: float, depth: float, height: float, corner: float, chamfer: float = 0.5) -> Manifold:
    """Return a plate on z = 0, centred in x and y, with round corners and a broken upper and lower edge."""
    outline = CrossSection.square((width - 2 * corner, depth - 2 * corner), center=True)
    return bevelled(outline.offset(corner, JoinType.Round, circular_segments=SEGMENTS // 2), height, chamfer)


def bevelled(outline: CrossSection, height: float, chamfer: float = 0.5) -> Manifold:
    """Return a convex outline extruded from z = 0, with a broken upper and lower edge."""
    inner = outline.offset(-chamfer, JoinType.Miter)
    layers = (inner.extrude(height), outline.extrude(height - 2 * chamfer).translate((0, 0, chamfer)))
    return Manifold.batch_hull(list(layers))


def around(tool: Manifold, n: int, radius: float, start_deg: float = 0.0) -> Manifold:
    """Return `n` copies of a tool on a circle around z."""
    turns = (start_deg + 360 * i / n for i in range(n))
    return united(tool.translate((radius, 0, 0)).rotate((0, 0, turn)) for turn in turns)


def at(tool: Manifold, places: Iterable[tuple[float, float]]) -> Manifold:
    """Return copies of a tool at places in the plane of x and y."""
    return united(tool.translate((x, y, 0)) for x, y in places)


def united(solids: Iterable[Manifold]) -> Manifold:
    """Return all solids as one."""
    return sum(solids, Manifold())


def upright(solid: Manifold) -> Manifold:
    """Return a solid with its z axis laid along x."""
    return solid.rotate((0, 90, 0))
