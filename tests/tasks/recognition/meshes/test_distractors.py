"""Shapes that are no part: what is made up, and that it can be rendered."""

import numpy as np
import pytest
from manifold3d import Manifold

from tasks.recognition.meshes import machine_shapes
from tasks.recognition.meshes.distractors import find_distractors, make_distractor

FAMILIES = [
    machine_shapes.turned_part,
    machine_shapes.plate,
    machine_shapes.bracket,
    machine_shapes.housing,
    machine_shapes.profile,
    machine_shapes.wheel,
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_solids_of_many_measures(family):
    solids: list[Manifold] = [family(np.random.default_rng([5, number])) for number in range(24)]

    boxes = np.array([solid.bounding_box() for solid in solids])
    sides = boxes[:, 3:] - boxes[:, :3]
    assert min(solid.volume() for solid in solids) > 50
    assert sides.min() > 2
    assert sides.max() < 250
    assert len({round(solid.volume(), 3) for solid in solids}) == 24


def test_made_up_shapes_can_be_rendered_and_say_nothing():
    shapes = find_distractors(None, 40, seed=3)

    assert [shape.name for shape in shapes[:2]] == ["shape_000", "shape_001"]
    assert not [note for shape in shapes for note in shape.notes]
    assert all(8 <= len(shape.faces) < 20_000 for shape in shapes)
    assert all(np.isfinite(shape.vertices).all() for shape in shapes)


def test_a_shape_depends_on_seed_and_number_alone():
    one, again, other_seed = make_distractor(3, 7), make_distractor(3, 7), make_distractor(4, 7)

    assert np.array_equal(one.vertices, again.vertices)
    assert one.vertices.shape != other_seed.vertices.shape or not np.array_equal(one.vertices, other_seed.vertices)


def test_a_small_plate_of_many_sides_has_room_for_a_window():
    class Least(np.random.Generator):
        """The least of every range, and yes to every question."""

        def uniform(self, low=0.0, high=1.0, size=None):
            assert high >= low
            return low

        def random(self):
            return 0.0

    assert machine_shapes.plate(Least(np.random.PCG64(0))).volume() > 50
