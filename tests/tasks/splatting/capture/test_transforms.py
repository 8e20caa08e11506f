import json
import math

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import ConfigError, DatasetError, ImageError
from tasks.base.progress import Note
from tasks.images.images import read_rgb, write_jpeg
from tasks.splatting.capture.inputs import adopt
from tasks.splatting.demo.scene import looking_at
from tasks.splatting.fit.scene import load_image, read_scene
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.pose_facts import PoseReport

W, H = 96, 64
NEEDED = PosesParams(min_registered=3, num_threads=1)
PLACES = [(3.0, 0.5 * i, 1.0) for i in range(6)]


def opengl(index):
    """Return camera to world with y up and the view along -z."""
    to_world = np.linalg.inv(looking_at(np.array(PLACES[index]), np.zeros(3)))
    return (to_world @ np.diag([1, -1, -1, 1])).tolist()


def write(folder, top=None, frame=None, n=4, suffix=".jpg", named_suffix=".jpg"):
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(n):
        cv2.imwrite(str(folder / "images" / f"f{index}{suffix}"), np.full((H, W, 3), 50 * index, np.uint8))
        row = {"file_path": f"images/f{index}{named_suffix}", "transform_matrix": opengl(index)}
        frames.append({**row, **(frame or {})})
    (folder / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n1 2 3\n"
    )
    base = {"fl_x": 80.0, "fl_y": 82.0, "cx": 47.0, "cy": 33.0, "w": W, "h": H}
    values = {**(base if top is None else top), "frames": frames}
    values.setdefault("ply_file_path", "points.ply")
    (folder / "transforms.json").write_text(json.dumps(values))
    return folder


def adopted(source, folder, max_side=1000):
    events = list(adopt(source, folder, max_side, NEEDED))
    assert isinstance(events[-1], PoseReport)
    return read_scene(events[-1].scene), events


def notes(events):
    return [event.text for event in events if isinstance(event, Note)]


def test_cameras_stand_and_look_as_the_file_says(tmp_path):
    scene, events = adopted(write(tmp_path / "in"), tmp_path / "out")
    np.testing.assert_allclose(scene.centers, PLACES[:4], atol=1e-9)
    for view, place in zip(scene.views, PLACES[:4], strict=True):
        np.testing.assert_allclose(view.camera.world_to_camera, looking_at(np.array(place), np.zeros(3)), atol=1e-9)
    camera = scene.views[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height) == (80, 82, 47, 33, W, H)
    assert (events[-1].registered, events[-1].total, events[-1].missing) == (4, 4, ())
    assert [int(read_rgb(view.image).mean()) for view in scene.views] == pytest.approx([0, 50, 100, 150], abs=1)


def test_the_file_itself_may_be_given(tmp_path):
    scene, _ = adopted(write(tmp_path / "in") / "transforms.json", tmp_path / "out")
    assert len(scene.views) == 4


def test_an_angle_of_view_gives_the_focal_length_and_a_suffix_may_be_left_out(tmp_path):
    source = write(tmp_path / "in", top={"camera_angle_x": 0.8}, suffix=".png", named_suffix="")
    camera = adopted(source, tmp_path / "out")[0].views[0].camera
    assert camera.fx == camera.fy == pytest.approx(0.5 * W / math.tan(0.4))
    assert (camera.cx, camera.cy) == (W / 2, H / 2)


def test_a_frame_s_own_lens_comes_before_the_file_s(tmp_path):
    camera = adopted(write(tmp_path / "in", frame={"fl_x": 60.0}), tmp_path / "out")[0].views[0].camera
    assert (camera.fx, camera.fy) == (60, 82)


def test_pictures_are_bounded_and_cameras_with_them(tmp_path):
    camera = adopted(write(tmp_path / "in"), tmp_path / "out", max_side=48)[0].views[0].camera
    assert (camera.width, camera.height, camera.fx, camera.cy) == (48, 32, 40, 16.5)


def test_figures_for_another_size_than_the_pictures_are_scaled(tmp_path):
    top = {"fl_x": 160.0, "fl_y": 164.0, "cx": 94.0, "cy": 66.0, "w": 2 * W, "h": 2 * H}
    camera = adopted(write(tmp_path / "in", top=top), tmp_path / "out")[0].views[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (80, 82, 47, 33)


def test_points_are_read_and_their_lack_is_said(tmp_path):
    scene, events = adopted(write(tmp_path / "in"), tmp_path / "out")
    np.testing.assert_array_equal(scene.points, [[1, 2, 3]])
    assert not notes(events)
    without = write(tmp_path / "in2", top={"fl_x": 80.0, "ply_file_path": ""}, suffix=".webp", named_suffix=".webp")
    scene, events = adopted(without, tmp_path / "out2")
    assert scene.points.shape == (0, 3)
    assert notes(events)[0].endswith("has no points: they are triangulated from its cameras")
    assert notes(events)[-1].endswith("splat starts from random ones")  # flat images have no features


@pytest.mark.parametrize("orientation", [3, 6])
def test_pixels_stay_as_they_are_stored_whatever_exif_says(tmp_path, orientation):
    source, exif = write(tmp_path / "in"), Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[: H // 4, : W // 4] = 255
    for path in (source / "images").iterdir():
        Image.fromarray(pixels).save(path, exif=exif)
    scene, _ = adopted(source, tmp_path / "out")
    rgb = load_image(scene.views[0], 1000).rgb
    assert rgb.shape == (H, W, 3)
    assert rgb[:8, :8].min() > 200
    assert rgb[H // 2 :].max() < 50


def test_a_link_out_of_the_allowed_roots_is_refused(tmp_path, monkeypatch):
    source = write(tmp_path / "in")
    (source / "images").rename(tmp_path / "elsewhere")
    (source / "images").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(source))
    with pytest.raises(ConfigError, match=r"f0\.jpg leads outside the allowed roots"):
        adopted(source, tmp_path / "out")


def test_masks_come_with_their_pictures(tmp_path):
    source = write(tmp_path / "in", frame={"mask_path": "mask.png"})
    white = np.full((H, W), 255, np.uint8)
    white[: H // 2] = 0
    cv2.imwrite(str(source / "mask.png"), white)
    mask = load_image(adopted(source, tmp_path / "out")[0].views[0], 1000).mask
    assert mask[H // 2 :].all()
    assert not mask[: H // 2].any()


@pytest.mark.parametrize(
    ("top", "frame", "message"),
    [
        ({"w": W, "h": H}, {}, "no focal length, need fl_x or camera_angle_x"),
        ({"fl_x": "wide"}, {}, "something that is no number"),
        ({"fl_x": 80, "camera_model": "EQUIRECTANGULAR"}, {}, "camera_model EQUIRECTANGULAR, need one of"),
        ({"fl_x": 80, "k4": 0.1}, {}, "k4=0.1 with camera_model OPENCV"),
        ({"fl_x": 80, "w": 50, "h": 50}, {}, "has 96x64 pixels, its camera 50x50"),
        (None, {"file_path": "../secret.jpg"}, "leads out of its folder"),
        (None, {"file_path": "/etc/passwd"}, "leads out of its folder"),
        (None, {"file_path": "images/nowhere.jpg"}, "frame 0: there is no image .*; 0 of 4 images are there"),
        (None, {"mask_path": "nowhere.png"}, "frame 0: there is no mask nowhere.png"),
        ({"fl_x": 80, "ply_file_path": "nowhere.ply"}, {}, "names the points .*nowhere.ply, which are not there"),
        (None, {"transform_matrix": [[1, 2], [3, 4]]}, "no turn and shift"),
        (None, {"transform_matrix": (2 * np.eye(4)).tolist()}, "no turn and shift"),
        (None, {"transform_matrix": "left"}, "has no transform_matrix of numbers"),
    ],
)
def test_damage_is_named(tmp_path, top, frame, message):
    with pytest.raises(DatasetError, match=message):
        adopted(write(tmp_path / "in", top=top, frame=frame), tmp_path / "out")
    assert not (tmp_path / "out" / "undistorted").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"frames": []}', '{"frames": 3}', "\xff"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(DatasetError, match="is not JSON|is not UTF-8|has no list of frames"):
        adopted(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("left", [100, 700])  # bytes: without a size, and without its last rows
def test_a_picture_that_is_damaged_is_named(tmp_path, left):
    source = write(tmp_path / "in")
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    write_jpeg(source / "images" / "f1.jpg", noise, 95)
    (source / "images" / "f1.jpg").write_bytes((source / "images" / "f1.jpg").read_bytes()[:left])
    with pytest.raises(ImageError, match=r"f1\.jpg"):
        adopted(source, tmp_path / "out")


def rows_of(source):
    return json.loads((source / "transforms.json").read_text())


def rewrite(source, change):
    """Change each row of the file's frames."""
    values = rows_of(source)
    values["frames"] = [row for frame in values["frames"] for row in change(dict(frame))]
    (source / "transforms.json").write_text(json.dumps(values))
    return source


def test_frames_without_pictures_are_left_out_and_counted_while_half_are_there(tmp_path):
    source = write(tmp_path / "in", n=6)
    for index in (1, 4, 5):
        (source / "images" / f"f{index}.jpg").unlink()
    scene, events = adopted(source, tmp_path / "out")
    assert [view.camera.name for view in scene.views] == ["f0.jpg", "f2.jpg", "f3.jpg"]
    assert notes(events)[0].startswith("3 of 6 images are not there and left out: images/f1.jpg, images/f4.jpg, ")
    (source / "images" / "f3.jpg").unlink()
    with pytest.raises(DatasetError, match=r"frame 1: there is no image .*f1\.jpg; 2 of 6 images are there, need"):
        adopted(source, tmp_path / "out")


def test_half_of_the_pictures_are_not_enough_where_more_are_needed(tmp_path):
    source = write(tmp_path / "in", n=6)
    (source / "images" / "f1.jpg").unlink()
    with pytest.raises(DatasetError, match=r"5 of 6 images are there, need at least 6 \(min_registered\)"):
        list(adopt(source, tmp_path / "out", 640, PosesParams(min_registered=6)))
    with pytest.raises(DatasetError, match="5 of 6 .*, need at least 90%"):
        list(adopt(source, tmp_path / "out", 640, PosesParams(min_registered=3, min_registered_share=0.9)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG", ".webp", ".tiff"])
def test_a_suffix_may_be_left_out_or_another(tmp_path, suffix):
    source = write(tmp_path / "in", suffix=suffix, named_suffix="")
    assert len(adopted(source, tmp_path / "out")[0].views) == 4
    rewrite(source, lambda row: [{**row, "file_path": row["file_path"] + ".bmp"}])
    assert len(adopted(source, tmp_path / "out")[0].views) == 4


@pytest.mark.parametrize(
    "before", ["images\\", ".\\images\\", "C:\\Users\\me\\scene\\images\\", "/home/me/scene/images/", "./images/"]
)
def test_paths_of_windows_and_of_other_machines_are_understood(tmp_path, before):
    source = rewrite(write(tmp_path / "in"), lambda row: [{**row, "file_path": before + row["file_path"][7:]}])
    scene, _ = adopted(source, tmp_path / "out")
    assert [view.camera.name for view in scene.views] == [f"f{index}.jpg" for index in range(4)]


def test_smaller_copies_stand_in_for_pictures_that_were_not_kept(tmp_path):
    source = write(tmp_path / "in")
    for name, side in (("images_4", 24), ("images_2", 48)):
        (source / name).mkdir()
        for path in (source / "images").iterdir():
            small = cv2.resize(cv2.imread(str(path)), (side, side * H // W))
            cv2.imwrite(str(source / name / path.with_suffix(".png").name), small)
    for path in (source / "images").iterdir():
        path.unlink()
    camera = adopted(source, tmp_path / "out")[0].views[0].camera
    assert (camera.name, camera.width, camera.height, camera.fx, camera.cy) == ("f0.png", 48, 32, 40, 16.5)


def test_a_frame_that_is_listed_twice_is_taken_once_and_said(tmp_path):
    scene, events = adopted(rewrite(write(tmp_path / "in"), lambda row: [row, row]), tmp_path / "out")
    assert len(scene.views) == 4
    assert any(
        note.startswith("4 frame(s) of") and "name an image that another one names" in note for note in notes(events)
    )


def test_pictures_of_one_name_in_two_folders_stay_two(tmp_path):
    source = write(tmp_path / "in", n=3)
    (source / "images_right").mkdir()
    for path in (source / "images").iterdir():
        (source / "images_right" / path.name).write_bytes(path.read_bytes())
    rewrite(source, lambda row: [row, {**row, "file_path": row["file_path"].replace("images", "images_right")}])
    names = [view.camera.name for view in adopted(source, tmp_path / "out")[0].views]
    assert names == ["images_f0.jpg", "images_f1.jpg", "images_f2.jpg"] + [f"images_right_f{i}.jpg" for i in range(3)]


def test_pictures_whose_folders_make_the_same_name_stay_two(tmp_path):
    source = write(tmp_path / "in", n=3)
    (source / "images" / "a").mkdir()
    for index in range(3):
        path = source / "images" / f"f{index}.jpg"
        for place, light in ((f"images/a/F{index}.jpg", 20), (f"images/a_f{index}.jpg", 90), (f"a_f{index}.jpg", 160)):
            cv2.imwrite(str(source / place), np.full((H, W, 3), light, np.uint8))
        path.unlink()
    places = ("images/a/F", "images/a_f", "a_f")
    rewrite(source, lambda row: [{**row, "file_path": row["file_path"].replace("images/f", at)} for at in places])
    scene, events = adopted(source, tmp_path / "out")
    assert len({view.camera.name.lower() for view in scene.views}) == events[-1].registered == 9
    lights = sorted(round(float(read_rgb(view.image).mean())) for view in scene.views)
    assert lights == pytest.approx([20] * 3 + [90] * 3 + [160] * 3, abs=1)


def test_a_blender_scene_is_known_by_its_training_file(tmp_path):
    source = write(tmp_path / "in", top={"camera_angle_x": 0.8}, suffix=".png", named_suffix="")
    (source / "transforms.json").rename(source / "transforms_train.json")
    assert len(adopted(source, tmp_path / "out")[0].views) == 4


def test_lenses_are_understood_as_instant_ngp_and_nerfstudio_write_them(tmp_path):
    degrees = {"x_fov": 2 * math.degrees(math.atan(0.5 * W / 80))}
    assert adopted(write(tmp_path / "a", top=degrees), tmp_path / "out")[0].views[0].camera.fx == pytest.approx(80)
    fisheye = {"fl_x": 80.0, "is_fisheye": True}
    assert adopted(write(tmp_path / "b", top=fisheye), tmp_path / "out")[0].views[0].camera.width != W
    listed = {"fl_x": 80.0, "distortion_params": [-0.1, 0.01, 0, 0, 0, 0]}
    single = {"fl_x": 80.0, "k1": -0.1, "k2": 0.01}
    of_list, of_single = (
        adopted(write(tmp_path / n, top=top), tmp_path / "out")[0] for n, top in (("c", listed), ("d", single))
    )
    assert of_list.views[0].camera.width == of_single.views[0].camera.width != W
