"""Families of machine parts with random measures: what shapes look like that somebody designed, in millimetres."""

import numpy as np
from manifold3d import CrossSection, Manifold

from tasks.recognition.meshes.modelling import around, at, bevelled, block, bore, disc, turned, united, upright

Rng = np.random.Generator

_OFF = 0.3
"""By which faces miss one plane where two pieces are put together; those that nearly lie in one leave slivers."""


def turned_part(rng: Rng) -> Manifold:
    """Return steps along an axis, perhaps bored, grooved, with flats, a collar with holes, or a cross hole."""
    radii, solid, z = rng.uniform(6, 24, rng.integers(1, 5)), Manifold(), 0.0
    for radius in radii:
        length = rng.uniform(4, 26)
        solid += disc(radius, z - 0.5 if z else 0, z + length, rng.uniform(0.2, 1.6))
        z += length
    widest = radii.max()
    if rng.random() < 0.5:
        radius, low = rng.uniform(0.3, 0.75) * radii.min(), 0.0 if rng.random() < 0.6 else z * rng.uniform(0.3, 0.7)
        solid -= bore(radius, low, z)
    if rng.random() < 0.4:
        collar = disc(widest + rng.uniform(8, 18), _OFF, rng.uniform(4, 9))
        n, radius = int(rng.integers(2, 9)), rng.uniform(1.5, 3)
        solid += collar
        if rng.random() < 0.8:
            solid -= around(bore(radius, 0, 9), n, widest + rng.uniform(4.5, 7))
    for _ in range(rng.integers(0, 3)):
        solid -= _groove(rng.uniform(0.15, 0.85) * z, rng.uniform(0.75, 0.9) * widest, widest + 2, rng.uniform(1, 5))
    if rng.random() < 0.3:
        solid -= upright(bore(rng.uniform(1.5, 4), -60, 60)).translate((0, 0, rng.uniform(0.2, 0.8) * z))
    if rng.random() < 0.3:
        solid ^= _prism(rng, z)
    return solid


def wheel(rng: Rng) -> Manifold:
    """Return a disc with a rim of bulges or hollows, circles of holes or spokes, perhaps a hub and a dished side."""
    radius, height = rng.uniform(18, 44), rng.uniform(4, 20)
    solid = disc(radius, 0, height, rng.uniform(0.2, 1.5))
    if rng.random() < 0.4:
        tool = disc(rng.uniform(0.06, 0.25) * radius, _OFF, height - _OFF)
        ring = around(tool, int(rng.integers(3, 16)), radius)
        solid = solid + ring if rng.random() < 0.5 else solid - ring.scale((1, 1, 3)).translate((0, 0, -height))
    inner = rng.uniform(0.25, 0.5) * radius
    if rng.random() < 0.5:
        dish = disc(0.85 * radius, height * rng.uniform(0.4, 0.8), 2 * height) - disc(inner, 0, 2 * height)
        solid -= dish
    if rng.random() < 0.5:
        solid += disc(inner, height / 2, height + rng.uniform(2, 16))
    if rng.random() < 0.6:
        size = rng.uniform(0.06, 0.18) * radius
        solid -= around(bore(size, 0, height), int(rng.integers(3, 10)), rng.uniform(0.6, 0.75) * radius)
    if rng.random() < 0.8:
        solid -= bore(rng.uniform(0.3, 0.8) * inner, 0, 60)
    return solid


def plate(rng: Rng) -> Manifold:
    """Return a plate with a pattern of holes, perhaps slots, a window and a boss."""
    width, depth, height = rng.uniform(40, 90), rng.uniform(24, 64), rng.uniform(3, 12)
    solid = block(width, depth, height, rng.uniform(1, 11))
    if rng.random() < 0.25:
        solid = bevelled(CrossSection.circle(depth / 2, int(rng.choice([3, 5, 6, 8]))), height)
        width = depth = depth * 0.6
    hole = bore(rng.uniform(1.8, 5), 0, height)
    x, y = width / 2 - 7, depth / 2 - 7
    pattern = rng.integers(4)
    if pattern == 0:
        solid -= at(hole, [(-x, -y), (x, -y), (-x, y), (x, y)])
    elif pattern == 1:
        solid -= at(hole, [(-x, 0), (x, 0)])
    elif pattern == 2:
        solid -= at(hole, [(rng.uniform(-x, x), rng.uniform(-y, y)) for _ in range(rng.integers(1, 6))])
    if rng.random() < 0.4:
        window = block(rng.uniform(8, max(8, width / 2)), rng.uniform(5, depth / 2), height + 4, 2, 0.1)
        solid -= window.translate((rng.uniform(-0.2, 0.2) * width, rng.uniform(-0.2, 0.2) * depth, -2))
    if rng.random() < 0.4:
        radius, top = rng.uniform(0.2, 0.38) * depth, height + rng.uniform(3, 20)
        solid += disc(radius, height / 2, top)
        solid -= bore(rng.uniform(0.4, 0.8) * radius, 0, top)
    return solid


def bracket(rng: Rng) -> Manifold:
    """Return two or three plates at right angles, with holes, perhaps ribs."""
    width, leg, height = rng.uniform(16, 60), rng.uniform(24, 60), rng.uniform(24, 60)
    thick = rng.uniform(3, 8)
    foot = block(width, leg, thick, rng.uniform(0.8, 4)).translate((0, leg / 2, 0))
    back = block(width - 2 * _OFF, height, thick, rng.uniform(0.8, 4)).rotate((90, 0, 0))
    back = back.translate((0, thick + _OFF, height / 2 + _OFF))
    solid = foot + back
    kind = rng.integers(3)
    if kind == 0:  # a channel
        solid += back.translate((0, leg - thick - 2 * _OFF, 0))
    elif kind == 1:  # a Z
        solid += foot.translate((0, thick - leg + 2 * _OFF, height - thick))
    hole = bore(rng.uniform(1.8, 5.5), 0, thick)
    places = [(rng.uniform(-0.35, 0.35) * width, rng.uniform(0.35, 0.85) * leg) for _ in range(rng.integers(0, 4))]
    if places:
        solid -= at(hole, places)
    if rng.random() < 0.6:
        x, z = rng.uniform(0.1, 0.35) * width, rng.uniform(0.4, 0.85) * height
        across = bore(rng.uniform(1.8, 6), -leg, leg).rotate((90, 0, 0))
        solid -= united(across.translate((side * x, 0, z)) for side in ((-1, 1) if rng.random() < 0.6 else (0,)))
    if rng.random() < 0.4:
        reach = min(leg, height) * rng.uniform(0.5, 0.9)
        rib = CrossSection([np.array([(1, 1), (reach, 1), (1, reach)])]).extrude(thick).rotate((90, 0, 90))
        xs = [3 * _OFF - width / 2, width / 2 - thick - 3 * _OFF] if rng.random() < 0.5 else [-thick / 2]
        solid += united(rib.translate((x, 0, 0)) for x in xs)
    return solid


def housing(rng: Rng) -> Manifold:
    """Return a block with bosses along its axes, bored through, perhaps on a foot or with a fork."""
    width, depth, height = rng.uniform(18, 46, 3)
    solid = block(width, depth, height, rng.uniform(1, 6))
    if rng.random() < 0.5:
        solid += block(width + rng.uniform(16, 40), depth, rng.uniform(4, 9), 3)
    middle = height * rng.uniform(0.4, 0.7)
    largest = min(width, depth, height) / 2
    for turn in rng.permutation(3)[: rng.integers(1, 3)]:
        radius, reach = largest * rng.uniform(0.4, 0.95), max(width, depth, height) * rng.uniform(0.5, 0.95)
        boss = disc(radius, -reach if rng.random() < 0.5 else 0, reach)
        hole = bore(radius * rng.uniform(0.4, 0.8), -reach - 1, reach + 1)
        angles = ((0, 0, 0), (90, 0, 0), (0, 90, 0))[turn]
        solid += boss.rotate(angles).translate((0, 0, middle))
        solid -= hole.rotate(angles).translate((0, 0, middle))
    if rng.random() < 0.35:
        gap = Manifold.cube((width * rng.uniform(0.25, 0.5), 2 * depth, height), center=True)
        solid -= gap.translate((0, 0, height * rng.uniform(0.8, 1.1)))
    return solid


def profile(rng: Rng) -> Manifold:
    """Return a piece of a drawn profile, of three to twelve sides, L, T or U, perhaps cut off aslant and drilled."""
    length, size, thick = rng.uniform(10, 80), rng.uniform(16, 44), rng.uniform(3, 9)
    kind = rng.integers(5)
    if kind == 0:
        outline = CrossSection.circle(size / 2, int(rng.integers(3, 13)))
    elif kind == 1:
        outline = _corner(size, thick)
    elif kind == 2:
        outline = _corner(size, thick) + _corner(size, thick).mirror((1, 0))
    elif kind == 3:
        outline = _corner(size, thick) + _corner(size, thick).mirror((1, 0)).translate((size, 0))
    else:
        outline = CrossSection.square((size, size * rng.uniform(0.5, 1)), center=True)
        outline -= outline.offset(-thick / 2)
    solid = outline.extrude(length)
    if rng.random() < 0.3:
        solid -= bore(rng.uniform(0.15, 0.3) * size, 0, length)
    for _ in range(rng.integers(0, 3)):
        tool = bore(rng.uniform(1.8, 5), -80, 80).rotate((90, 0, 0) if rng.random() < 0.5 else (0, 90, 0))
        solid -= tool.translate((rng.uniform(0, size / 3), rng.uniform(0, size / 3), rng.uniform(0.2, 0.8) * length))
    if rng.random() < 0.3:
        solid = solid.trim_by_plane((rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), -1), -0.8 * length)
    return solid


def _corner(size: float, thick: float) -> CrossSection:
    """Return an L from the origin."""
    return CrossSection.square((size, thick)) + CrossSection.square((thick, size))


def _groove(middle: float, floor: float, wall: float, width: float) -> Manifold:
    low, high = middle - width / 2, middle + width / 2
    return turned([(floor, low), (wall + 30, low), (wall + 30, high), (floor, high)])


def _prism(rng: Rng, length: float) -> Manifold:
    """Return what flats leave of a turned part: two, four or six, along a piece of it or all."""
    width = rng.uniform(14, 30)
    n = int(rng.choice([2, 4, 6]))
    outline = CrossSection.square((width, 200), center=True) if n == 2 else CrossSection.circle(width * 0.62, n)
    cut = outline.extrude(length * 2).translate((0, 0, length * rng.uniform(0.3, 0.7)))
    return cut + disc(100, -1, length * 0.6)
