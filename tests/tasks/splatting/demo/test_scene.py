import cv2
import numpy as np
import pytest

from tasks.images.video import decode, probe
from tasks.splatting.demo.render import make_room, render
from tasks.splatting.demo.scene import HEIGHT, N_FRAMES, WIDTH, demo_cameras, make_demo_video, read_cameras
from tasks.splatting.poses.similarity import largest_distance


@pytest.fixture(scope="module")
def room():
    return make_room(0)


def test_the_same_seed_draws_the_same_room_and_another_one_another(room):
    camera = demo_cameras()[0]
    first = render(room, camera)
    assert np.array_equal(first, render(make_room(0), camera))
    assert np.abs(first.astype(int) - render(make_room(1), camera)).mean() > 10


def test_cameras_are_rigid_and_look_at_the_middle_from_all_heights():
    cameras = demo_cameras()
    for camera in cameras:
        rotation = camera.world_to_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        middle = camera.world_to_camera @ [0, 0, 0.45, 1]
        assert middle[2] > 1
        assert abs(middle[0] / middle[2]) < 0.1
        assert abs(middle[1] / middle[2]) < 0.1
    centers = np.array([camera.center for camera in cameras])
    assert np.ptp(centers[:, 2]) > 0.5
    assert largest_distance(centers) > 4


def test_a_point_on_a_box_has_its_colour_from_wherever_it_is_seen(room):
    """View-consistent to a fraction of a pixel: colours along a box's top follow the cameras."""
    rng = np.random.default_rng(0)
    box = room.boxes[0]
    cos, sin = np.cos(box.angle), np.sin(box.angle)
    local = rng.uniform(-0.8, 0.8, (400, 2)) * box.half[:2]
    points = np.column_stack([local @ [[cos, sin], [-sin, cos]], np.full(400, box.half[2])]) + box.center
    points = points[np.linalg.norm(points[:, :2] - (0.05, 0), axis=1) > 0.33]  # not under the ball
    seen = []
    for camera in demo_cameras()[40:44]:
        at = points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
        columns = (at[:, 0] / at[:, 2] * camera.fx + camera.cx - 0.5).astype(np.float32)
        rows = (at[:, 1] / at[:, 2] * camera.fy + camera.cy - 0.5).astype(np.float32)
        picture = render(room, camera).astype(np.float32)
        seen.append(cv2.remap(picture, columns[:, None], rows[:, None], cv2.INTER_LINEAR)[:, 0])
    spread = np.std(seen, 0).mean()
    assert spread < 0.25 * np.std(seen[0], 0).mean()  # half a pixel off costs more than that


def test_pictures_have_detail_and_no_flicker(room):
    picture = render(room, demo_cameras()[30])
    assert picture.shape == (HEIGHT, WIDTH, 3)
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    assert len(cv2.goodFeaturesToTrack(grey, 1000, 0.02, 4)) > 400
    assert 60 < grey.mean() < 190
    # Hardly any energy at the finest scale: the textures are band-limited.
    fine = grey.astype(float) - cv2.GaussianBlur(grey.astype(np.float64), (0, 0), 1)
    assert fine.std() < 0.35 * grey.std()


@pytest.mark.long
def test_the_video_shows_every_camera_in_order(tmp_path, room):
    video, truth = make_demo_video(tmp_path, 0)
    cameras = read_cameras(truth)
    assert len(cameras) == N_FRAMES == probe(video).n_packets
    for picture in decode(video):
        if picture.index in {0, 31, 59}:
            want = render(room, cameras[picture.index]).astype(float)
            error = ((picture.rgb() - want) ** 2).mean()
            assert 10 * np.log10(255**2 / error) > 30  # dB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.json", "demo.mp4"]
