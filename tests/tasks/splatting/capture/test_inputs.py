import cv2
import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.progress import Note
from tasks.geometry.rotations import quaternion_of
from tasks.images.images import write_jpeg
from tasks.splatting.capture.inputs import adopt, recognise
from tasks.splatting.capture.photos import photographs_given
from tasks.splatting.demo.scene import looking_at
from tasks.splatting.fit.scene import load_image, read_scene
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tasks.splatting.render.cameras import Camera


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(path, np.zeros((8, 8, 3), np.uint8), 90)


def test_a_file_is_a_video_whatever_it_is_called(tmp_path):
    (tmp_path / "IMG_0001").write_bytes(b"")
    assert recognise(tmp_path / "IMG_0001") == "video"


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_a_model_beside_pictures_is_colmap(tmp_path, place, suffix):
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / f"cameras{suffix}").write_bytes(b"")
    assert recognise(tmp_path) == "colmap"


def test_a_transforms_file_comes_before_all_else(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "cameras.bin").write_bytes(b"")
    (tmp_path / "transforms.json").write_text("{}")
    assert recognise(tmp_path) == recognise(tmp_path / "transforms.json") == "transforms"


def test_pictures_alone_are_photographs(tmp_path):
    picture(tmp_path / "a.jpg")
    assert recognise(tmp_path) == "photos"


@pytest.mark.parametrize("name", ["images", "input"])
def test_photographs_may_lie_where_other_trainers_want_them(tmp_path, name):
    picture(tmp_path / name / "a.jpg")
    assert recognise(tmp_path) == "photos"
    assert photographs_given(tmp_path) == [tmp_path / name / "a.jpg"]
    picture(tmp_path / "b.jpg")
    assert photographs_given(tmp_path) == [tmp_path / "b.jpg"]


def test_a_folder_of_other_things_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(DatasetError, match="which holds film.mp4; .* of a video give the file itself"):
        recognise(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="which holds nothing"):
        recognise(tmp_path)


def test_one_photograph_is_refused(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="is one photograph, need a video or a folder"):
        recognise(tmp_path / "a.jpg")


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="there is no .*nowhere"):
        recognise(tmp_path / "nowhere")


def test_a_model_without_pictures_is_refused(tmp_path):
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "sparse" / "0" / "cameras.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match="no folder images with its images"):
        list(adopt(tmp_path, tmp_path / "out", 640, PosesParams()))


W, H = 48, 32
PARAMS = PosesParams(min_registered=3, num_threads=1)


def colmap(folder, names, place="sparse/0", pictures="images", size=(W, H), text=False, points=True):
    """Write a folder as COLMAP's users have it: a model and its images."""
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / pictures / name).parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(folder / pictures / name, np.full((size[1], size[0], 3), 60 + index, np.uint8), 95)
    poses = [looking_at(np.array([3.0, 0.5 * index, 1.0]), np.zeros(3)) for index in range(len(names))]
    cameras = tuple(Camera(name, W, H, 40, 41, 24.5, 15, pose) for name, pose in zip(names, poses, strict=True))
    (folder / place).mkdir(parents=True, exist_ok=True)
    write_model(folder / place, PinholeModel(cameras, np.ones((1, 3), np.float32), np.ones((1, 3), np.uint8)))
    if text:
        write_text(folder / place, cameras)
    if not points:
        (folder / place / f"points3D.{'txt' if text else 'bin'}").unlink()
    return folder


def write_text(folder, cameras):
    for path in folder.glob("*.bin"):
        path.unlink()
    (folder / "cameras.txt").write_text(f"# a comment\n7 PINHOLE {W} {H} 40 41 24.5 15\n")
    rows = ["# a comment"]
    for number, camera in enumerate(cameras, 1):
        pose = (*quaternion_of(camera.world_to_camera[:3, :3]), *camera.world_to_camera[:3, 3])
        rows += [f"{number} {' '.join(map(str, pose))} 7 {camera.name}", ""]
    (folder / "images.txt").write_text("\n".join(rows) + "\n")
    (folder / "points3D.txt").write_text("1 1 1 1 1 1 1 0.5\n")


def adopted(source, params=PARAMS):
    events = list(adopt(source, source / "out", 1000, params))
    return read_scene(events[-1].scene), [event.text for event in events if isinstance(event, Note)], events[-1]


NAMES = [f"f{index}.jpg" for index in range(4)]


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "sparse/1", "colmap/sparse/0", "dense/sparse", "."])
@pytest.mark.parametrize("text", [False, True])
def test_a_model_is_read_wherever_tools_put_it_and_its_pictures_are_the_same_files(tmp_path, place, text):
    source = colmap(tmp_path / "in", NAMES, place, text=text)
    scene, notes, report = adopted(source)
    assert [view.camera.name for view in scene.views] == NAMES
    assert all(view.image.samefile(source / "images" / view.camera.name) for view in scene.views)
    np.testing.assert_allclose(scene.centers, [[3, 0.5 * index, 1] for index in range(4)], atol=1e-9)
    camera = scene.views[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.width) == (40, 41, 24.5, 15, W)
    assert (report.registered, report.total, report.missing, report.points, notes) == (4, 4, (), 1, [])


def test_pictures_that_were_thinned_out_are_left_out_and_counted(tmp_path):
    source = colmap(tmp_path / "in", [f"cam1/f{index}.jpg" for index in range(6)])
    write_jpeg(source / "images" / "other.jpg", np.zeros((H, W, 3), np.uint8), 95)
    for index in (0, 3):
        (source / "images" / "cam1" / f"f{index}.jpg").unlink()
    scene, notes, report = adopted(source)
    assert [view.camera.name for view in scene.views] == [f"cam1/f{index}.jpg" for index in (1, 2, 4, 5)]
    assert notes[0].startswith("2 of 6 images are not there and left out: cam1/f0.jpg, cam1/f3.jpg (")
    assert (report.registered, report.total, report.missing) == (4, 5, ("other.jpg",))
    for index in (1, 2):
        (source / "images" / "cam1" / f"f{index}.jpg").unlink()
    with pytest.raises(DatasetError, match=r"there is no image cam1/f0\.jpg in .*; 2 of 6 images are there, need"):
        adopted(source)


@pytest.mark.parametrize("given", ["", "sparse/0"])
def test_a_folder_of_smaller_copies_is_as_good_as_the_pictures(tmp_path, given):
    source = colmap(tmp_path / "in", NAMES, pictures="images_2", size=(W // 2, H // 2))
    camera = adopted(source / given)[0].views[0].camera
    assert (camera.width, camera.height, camera.fx, camera.cy) == (W // 2, H // 2, 20, 7.5)


def test_pictures_themselves_come_before_smaller_copies_and_those_with_another_suffix_will_do(tmp_path):
    source = colmap(tmp_path / "in", NAMES)
    (source / "images_2").mkdir()
    for name in NAMES:
        picture(source / "images_2" / name)
        Image.open(source / "images" / name).save(source / "images" / name.replace(".jpg", ".png"))
        (source / "images" / name).unlink()
    scene = adopted(source)[0]
    assert [view.camera.name for view in scene.views] == [f"f{index}.png" for index in range(4)]
    assert scene.views[0].camera.width == W


def test_masks_beside_pictures_are_taken(tmp_path):
    source = colmap(tmp_path / "in", NAMES)
    (source / "masks").mkdir()
    white = np.zeros((H, W), np.uint8)
    white[:, W // 2 :] = 255
    for name in ("f0.jpg.png", "f2.png"):
        cv2.imwrite(str(source / "masks" / name), white)
    masks = [load_image(view, 1000).mask for view in adopted(source)[0].views]
    assert [mask is not None for mask in masks] == [True, False, True, False]
    np.testing.assert_array_equal(masks[0], white > 0)


def test_masks_of_a_model_of_windows_are_taken(tmp_path):
    source = colmap(tmp_path / "in", [f"cam\\f{index}.jpg" for index in range(3)])
    for index in range(3):
        picture_of = source / "images" / "cam" / f"f{index}.jpg"
        picture_of.parent.mkdir(exist_ok=True)
        (source / "images" / f"cam\\f{index}.jpg").rename(picture_of)
    (source / "masks" / "cam").mkdir(parents=True)
    cv2.imwrite(str(source / "masks" / "cam" / "f1.jpg.png"), np.full((H, W), 255, np.uint8))
    views = adopted(source)[0].views
    assert [view.camera.name for view in views] == [f"cam/f{index}.jpg" for index in range(3)]
    assert [view.mask is not None for view in views] == [False, True, False]


def test_masks_of_pictures_in_the_folder_itself_lie_in_it_and_are_no_pictures(tmp_path):
    source = colmap(tmp_path / "in", NAMES, pictures=".")
    for folder, name in ((source / "masks", "f1.jpg.png"), (tmp_path / "masks", "f2.jpg.png")):
        folder.mkdir()
        cv2.imwrite(str(folder / name), np.full((H, W), 255, np.uint8))
    scene, _, report = adopted(source)
    assert [view.mask is not None for view in scene.views] == [False, True, False, False]
    assert (report.total, report.missing) == (4, ())


@pytest.mark.parametrize("text", [False, True])
def test_a_model_without_its_file_of_points_is_read(tmp_path, text):
    scene, notes, _ = adopted(colmap(tmp_path / "in", NAMES, text=text, points=False))
    assert len(scene.views) == 4
    assert "has no points: they are triangulated" in notes[0]


def test_a_damaged_model_is_named_in_one_line(tmp_path):
    source = colmap(tmp_path / "in", NAMES)
    data = (source / "sparse" / "0" / "images.bin").read_bytes()
    (source / "sparse" / "0" / "images.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"cannot read the COLMAP model in .*sparse/0: [^\n]*$"):
        adopted(source)
