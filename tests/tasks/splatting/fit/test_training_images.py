"""Images of a fit: each once per pass, kept while they fit, and a digest that sees every change."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from tasks.splatting.fit.training_images import SIZE_MARGIN, TrainingImages, digest_of, order_of, scene_size
from tests.tasks.splatting.fit_scene import make_scene

CPU = torch.device("cpu")


@pytest.fixture
def scene(tmp_path):
    return make_scene(tmp_path / "pictures", 4)


def test_every_picture_comes_once_per_pass_in_another_order_each():
    passes = [[order_of(3, 10, step) for step in range(10 * n, 10 * n + 10)] for n in range(4)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert passes[0] != [order_of(4, 10, step) for step in range(10)]


def test_a_shot_has_the_pixels_of_the_file_at_the_size_asked_for(scene):
    whole = TrainingImages(scene.views, 64, CPU)[1]
    pixels = cv2.imread(str(scene.views[1].image))[..., ::-1]
    np.testing.assert_array_equal(whole.rgb.numpy(), pixels)
    torch.testing.assert_close(whole.truth, whole.rgb / 255)
    half = TrainingImages(scene.views, 32, CPU)[1]
    assert half.rgb.shape == (24, 32, 3)
    assert (half.camera.width, half.camera.fx) == (32, whole.camera.fx / 2)


def test_pictures_that_fit_are_read_once(scene):
    shots = TrainingImages(scene.views, 64, CPU)
    assert shots.fits
    assert list(shots.read()) == [1, 2, 3, 4]
    for view in scene.views:
        view.image.unlink()
    assert shots[3].rgb.any()


def test_pictures_that_do_not_fit_are_read_as_they_come(scene):
    size = 64 * 48 * 3
    shots = TrainingImages(scene.views, 64, CPU, bound=2 * size + 1)
    assert not shots.fits
    assert list(shots.read()) == []
    expected = [TrainingImages(scene.views, 64, CPU)[i].rgb for i in range(4)]
    for i in (0, 1, 2, 3, 0, 0):
        assert torch.equal(shots[i].rgb, expected[i])
    assert len(shots._kept) == 2


def test_masks_come_with_their_pictures(scene, tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 10:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    masked = dataclasses.replace(scene.views[0], mask=tmp_path / "mask.png")
    found = TrainingImages([masked], 64, CPU)[0].mask
    assert found is not None
    assert torch.equal(found, torch.from_numpy(mask > 0))


def test_the_size_of_a_scene_is_that_of_its_cameras(scene):
    assert scene_size(scene) == pytest.approx(SIZE_MARGIN * scene.extent)


def test_the_digest_does_not_depend_on_where_the_files_lie(scene, tmp_path):
    assert digest_of(make_scene(tmp_path / "elsewhere", 4)) == digest_of(scene)


@pytest.mark.parametrize("what", ["pixel", "camera", "point", "color", "mask"])
def test_the_digest_sees_every_change(scene, tmp_path, what):
    before = digest_of(scene)
    first = scene.views[0]
    if what == "pixel":
        pixels = cv2.imread(str(first.image))
        pixels[0, 0] ^= 1
        cv2.imwrite(str(first.image), pixels)
    elif what == "camera":
        moved = first.camera.world_to_camera + 1e-9
        changed = dataclasses.replace(first, camera=dataclasses.replace(first.camera, world_to_camera=moved))
        scene = dataclasses.replace(scene, views=(changed, *scene.views[1:]))
    elif what == "mask":
        cv2.imwrite(str(tmp_path / "mask.png"), np.full((48, 64), 255, np.uint8))
        scene = dataclasses.replace(
            scene, views=(dataclasses.replace(first, mask=tmp_path / "mask.png"), *scene.views[1:])
        )
    else:
        (scene.points if what == "point" else scene.colors)[0, 0] += 1
    assert digest_of(scene) != before
