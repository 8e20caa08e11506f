"""Videos play, show what the rasteriser draws, and depth maps give depths back."""

import json

import av
import cv2
import numpy as np
import pytest
import torch

from tasks.base.errors import StorageError
from tasks.splatting.render.gaussians import Gaussians
from tasks.splatting.results.paths import turntable
from tasks.splatting.results.videos import Drawer, some, write_cameras, write_depth_maps, write_video
from tests.tasks.splatting.export_scene import looking, rasterizer, ring, splat


@pytest.fixture
def drawer():
    return Drawer(splat(30, 1), rasterizer, (0.2, 0.4, 0.6))


def test_a_video_shows_the_frames_the_rasteriser_draws(tmp_path, drawer):
    cameras = turntable(ring(4), 6, 64)
    assert list(write_video(drawer, cameras, tmp_path / "a.mp4", 12)) == [1, 2, 3, 4, 5, 6]
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (64, 42, 12)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 6
    for camera, frame in zip(cameras, frames, strict=True):
        drawn = drawer.image(camera)
        error = np.mean((drawn.astype(float) - frame) ** 2)
        assert 10 * np.log10(255**2 / error) > 28  # a quarter of the colours are kept
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_a_video_can_play_before_it_has_loaded_and_names_its_colours(tmp_path, drawer):
    list(write_video(drawer, turntable(ring(4), 3, 64), tmp_path / "a.mp4", 24))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def test_a_plain_colour_keeps_its_value_in_the_video(tmp_path):
    nothing = Gaussians(**{name: tensor[:0] for name, tensor in splat(1, 0).tensors().items()})
    drawer = Drawer(nothing, rasterizer, (0.8, 0.3, 0.1))
    list(write_video(drawer, turntable(ring(4), 2, 64), tmp_path / "a.mp4", 24))
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(frame.reshape(-1, 3).mean(0) - [204, 76.5, 25.5]).max() < 3


def test_a_video_that_is_given_up_leaves_nothing(tmp_path, drawer):
    writing = write_video(drawer, turntable(ring(4), 9, 64), tmp_path / "a.mp4", 24)
    next(writing)
    writing.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_error_of_storage(tmp_path, drawer):
    with pytest.raises((StorageError, OSError), match="no"):
        list(write_video(drawer, turntable(ring(4), 1, 64), tmp_path / "no" / "a.mp4", 24))


def test_depth_maps_give_the_depths_back_in_world_units(tmp_path, drawer):
    cameras = ring(2)
    assert list(write_depth_maps(drawer, cameras, tmp_path)) == [1, 2]
    facts = json.loads((tmp_path / "depth.json").read_text())
    assert [fact["camera"] for fact in facts.values()] == ["view_00.jpg", "view_01.jpg"]
    for camera, (name, fact) in zip(cameras, facts.items(), strict=True):
        steps = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert steps.dtype == np.uint16
        assert steps.shape == (64, 96)
        expected = drawer.draw(camera, with_depth=True).depths.numpy()
        assert np.abs(steps * fact["units_per_step"] - expected).max() <= fact["units_per_step"]
        assert np.array_equal(steps == 0, expected == 0)
        assert fact["range"] == [pytest.approx(expected[expected > 0].min()), pytest.approx(expected.max())]


def test_what_is_near_is_red_and_what_is_far_blue_in_the_picture_of_depths(tmp_path):
    flat = splat(2, 0)
    flat.means[:] = torch.tensor([[-0.6, 0.0, -1.0], [0.6, 0.0, 2.0]])
    flat.scales[:] = -1.5
    flat.opacities[:] = 9
    list(write_depth_maps(Drawer(flat, rasterizer), [looking(np.array([0.0, 0, -4]), np.zeros(3))], tmp_path))
    picture = cv2.imread(str(next(tmp_path.glob("*.jpg")))).astype(int)
    blue, _, red = picture[33, 29]
    assert red > blue + 60
    blue, _, red = picture[33, 56]
    assert red < 80  # turbo ends in a dark violet
    assert picture[2, 90].max() < 30  # nothing there


def test_an_empty_view_has_a_depth_map_too(tmp_path, drawer):
    away = looking(np.array([0.0, 0.0, -4.0]), np.array([0.0, 0.0, -9.0]))
    list(write_depth_maps(drawer, [away], tmp_path))
    fact = next(iter(json.loads((tmp_path / "depth.json").read_text()).values()))
    assert fact == {"camera": "a.jpg", "units_per_step": 1.0, "range": None}
    assert not cv2.imread(str(next(tmp_path.glob("*.png"))), cv2.IMREAD_UNCHANGED).any()


def test_the_list_of_cameras_is_that_of_3dgs(tmp_path):
    cameras = ring(3, cx=40.0)
    write_cameras(cameras, tmp_path / "cameras.json")
    rows = json.loads((tmp_path / "cameras.json").read_text())
    assert [row["id"] for row in rows] == [0, 1, 2]
    assert [row["img_name"] for row in rows] == ["view_00", "view_01", "view_02"]
    for camera, row in zip(cameras, rows, strict=True):
        to_world = np.eye(4)
        to_world[:3, :3], to_world[:3, 3] = row["rotation"], row["position"]
        assert np.allclose(to_world @ camera.world_to_camera, np.eye(4))
        assert np.array_equal(row["world_to_camera"], camera.world_to_camera)
        assert [row[key] for key in ("width", "height", "fx", "fy", "cx", "cy")] == [96, 64, 90, 92, 40, 33.5]


def test_nothing_of_the_drawing_is_in_a_graph(drawer):
    drawer.gaussians.means.requires_grad_()
    assert not drawer.draw(ring(1)[0]).colors.requires_grad


def test_some_of_many_are_even_and_have_both_ends():
    assert [camera.name for camera in some(ring(9), 3)] == ["view_00.jpg", "view_04.jpg", "view_08.jpg"]
    assert len(some(ring(2), 3)) == 2
