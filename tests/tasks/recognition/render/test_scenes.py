"""Boxes, masks and poses of scenes agree with one another and with the image."""

import cv2
import numpy as np
import pytest

from tasks.geometry.rotations import rotation_matrix
from tasks.recognition.demo.parts import make_demo_parts
from tasks.recognition.meshes.distractors import make_distractor
from tasks.recognition.meshes.parts import Part, read_parts
from tasks.recognition.params import RenderParams
from tasks.recognition.render.scenes import Cast, Scene, render_scene, run_lengths
from tasks.recognition.render.solids import make_solids
from tasks.recognition.render.studio import make_studio

SIZE = 160
PARAMS = RenderParams(scene_size=SIZE, min_parts=4, max_parts=6, max_clutter=2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[Part]:
    folder = tmp_path_factory.mktemp("meshes")
    make_demo_parts(folder)
    return read_parts(folder)


@pytest.fixture(scope="module")
def scenes(parts) -> list[Scene]:
    cast = Cast.of(make_solids(parts), make_solids([make_distractor(0, n) for n in range(3)]))
    studio = make_studio(0)
    return [render_scene(cast, studio, PARAMS, np.random.default_rng(n)) for n in range(12)]


def test_the_pose_projects_the_mesh_into_its_box(parts, scenes):
    n = 0
    for scene in scenes:
        for annotation in scene.annotations:
            if annotation["visible"] < 1:
                continue
            mesh = parts[annotation["category_id"] - 1]
            turn = rotation_matrix(np.array(annotation["rotation"]))
            points = mesh.vertices @ turn.T + annotation["translation"]  # units of the file
            at = points[:, :2] / points[:, 2:] * scene.focal + SIZE / 2
            left, top, width, height = annotation["bbox"]
            projected = (*at.min(axis=0), *at.max(axis=0))
            assert projected == pytest.approx((left, top, left + width, top + height), abs=1.5)
            n += 1
    assert n > 10


def test_parts_hide_one_another_and_the_share_is_told(scenes):
    shares = [annotation["visible"] for scene in scenes for annotation in scene.annotations]
    assert any(share < 0.9 for share in shares)
    assert all(0.03 <= share <= 1 for share in shares)


def test_masks_of_one_scene_do_not_overlap(scenes):
    for scene in scenes:
        masks = np.zeros((SIZE, SIZE), int)
        for annotation in scene.annotations:
            counts = annotation["segmentation"]["counts"]
            masks += np.repeat(np.arange(len(counts)) % 2, counts).reshape(SIZE, SIZE).T
        assert masks.max() <= 1


def test_scenes_differ_and_are_neither_black_nor_white(scenes):
    images = [cv2.imdecode(np.frombuffer(scene.jpeg, np.uint8), cv2.IMREAD_COLOR) for scene in scenes]
    assert all(20 < image.mean() < 235 and image.std() > 4 for image in images)
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize(
    ("mask", "counts"),
    [([[0, 1], [0, 1]], [2, 2]), ([[1, 0], [0, 0]], [0, 1, 3]), ([[0, 0], [0, 0]], [4]), ([[1, 1], [1, 1]], [0, 4])],
)
def test_run_lengths_go_down_the_columns(mask, counts):
    assert run_lengths(np.array(mask, bool)) == counts
