import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from tasks.base.errors import DatasetError
from tasks.base.progress import Progress
from tasks.images.images import read_rgb, write_jpeg
from tasks.splatting.capture.inputs import adopt
from tasks.splatting.demo.render import make_room, render
from tasks.splatting.demo.scene import demo_cameras
from tasks.splatting.fit.scene import load_image, read_scene
from tasks.splatting.params import PosesParams
from tasks.splatting.poses.colmap_job import FEATURES, LOG, MATCHES, MODELS, UNDISTORTED
from tasks.splatting.poses.find import find_poses
from tasks.splatting.poses.pose_facts import PoseReport
from tasks.splatting.poses.scene_report import write_pose_report
from tasks.splatting.poses.similarity import align
from tasks.tracking.dead_run_cleanup import remove_partial_files

N = 12
PARAMS = PosesParams(max_features=1024, num_threads=1)


@pytest.fixture(scope="module")
def cameras():
    return demo_cameras()[10 : 10 + N]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, cameras):
    folder = tmp_path_factory.mktemp("pictures")
    room = make_room(0)
    for camera in cameras:
        write_jpeg(folder / f"{camera.name}.jpg", render(room, camera), 95)
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory, pictures):
    """The events of a whole search, and its folder."""
    folder = tmp_path_factory.mktemp("poses")
    return list(find_poses(pictures, folder, PARAMS, True)), folder


def children(pid):
    return psutil.Process(pid).children(recursive=True)


def gone(processes, within_s):
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not alive


def test_every_camera_is_found_within_a_hundredth_of_the_path(found, cameras):
    report = found[0][-1]
    assert isinstance(report, PoseReport)
    assert (report.registered, report.total, report.share, report.missing) == (N, N, 1.0, ())
    scene = read_scene(report.scene)
    truth = {f"{camera.name}.jpg": camera for camera in cameras}
    centers = np.array([truth[view.camera.name].center for view in scene.views])
    assert align(scene.centers, centers).relative_error < 0.01
    assert scene.views[0].camera.fx == pytest.approx(cameras[0].fx, rel=0.05)
    assert report.points == len(scene.points) > 300
    assert 0 < report.reprojection_error_px < 1
    assert report.track_length > 2


def test_undistorted_pictures_have_the_size_of_their_cameras(found):
    for view in read_scene(found[0][-1].scene).views:
        assert read_rgb(view.image).shape == (view.camera.height, view.camera.width, 3)


def test_progress_of_every_stage_grows_to_its_end(found):
    steps = [event for event in found[0] if isinstance(event, Progress)]
    assert list(dict.fromkeys(step.work for step in steps)) == ["features", "matches", "poses", "undistort"]
    for stage, total in (("features", N), ("matches", N), ("poses", N), ("undistort", N)):
        done = [step.done for step in steps if step.work == stage]
        assert done == sorted(done)
        assert done[-1] == total
        assert {step.total for step in steps if step.work == stage} == {total}


def test_nothing_unfinished_is_left(found):
    assert sorted(path.name for path in found[1].iterdir()) == [
        "asked.json", "colmap.log", "job.json", "matches.db", "models", "undistorted",
    ]  # fmt: skip


def test_finished_stages_are_not_done_again(found, pictures):
    events, folder = found
    before = (folder / MATCHES).stat().st_mtime_ns
    again = list(find_poses(pictures, folder, PARAMS, True))
    assert again == [events[-1]]
    assert (folder / MATCHES).stat().st_mtime_ns == before


def test_other_parameters_begin_anew(found, pictures, tmp_path):
    subprocess.run(["cp", "-r", f"{found[1]}/.", str(tmp_path / "poses")], check=True)
    events = find_poses(pictures, tmp_path / "poses", PARAMS.model_copy(update={"max_features": 512}), True)
    assert next(events).work == "features"
    assert not (tmp_path / "poses" / MODELS).exists()
    events.close()


def test_the_gate_speaks_before_pictures_are_undistorted(found, pictures, tmp_path):
    subprocess.run(["cp", "-r", f"{found[1]}/.", str(tmp_path / "poses")], check=True)
    facts = tmp_path / "poses" / MODELS / "facts.json"
    row = json.loads(facts.read_text())
    row["models"][0]["names"] = row["models"][0]["names"][:5]
    facts.write_text(json.dumps(row))
    with pytest.raises(DatasetError, match=r"^5 of 12 images could be placed \(42%\), need at least 10"):
        list(find_poses(pictures, tmp_path / "poses", PARAMS, True))


def test_closing_ends_colmap_within_five_seconds(pictures, tmp_path):
    others = children(os.getpid())  # of tests before
    events = find_poses(pictures, tmp_path, PARAMS, False)
    while next(events).done == 0:
        pass
    running = [child for child in children(os.getpid()) if child not in others]
    assert running
    begun = time.monotonic()
    events.close()
    assert gone(running, 0.1)
    assert time.monotonic() - begun < 5
    remove_partial_files(tmp_path)  # as after a run that was cancelled
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert not (tmp_path / FEATURES).exists() or not (tmp_path / MODELS).exists()
    assert list(find_poses(pictures, tmp_path, PARAMS, True))[-1].registered == N  # what was cut off does no harm


def test_colmap_dies_with_its_parent(pictures, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks.splatting.poses.find import find_poses\n"
        "from tasks.splatting.params import PosesParams\n"
        "for event in find_poses(Path(sys.argv[1]), Path(sys.argv[2]), PosesParams(), False):\n"
        "    print(event, flush=True)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(pictures), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    parent.stdout.readline()
    running = children(parent.pid)
    assert running
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(running, 5)


def test_a_crash_of_colmap_is_told_with_the_end_of_its_log(pictures, tmp_path):
    events = find_poses(pictures, tmp_path, PARAMS, False)
    next(events)
    for child in children(os.getpid()):
        child.send_signal(signal.SIGABRT)
    with pytest.raises(DatasetError, match=r"COLMAP ended by SIGABRT at stage features; the end of .*colmap.log"):
        list(events)


def test_a_kill_from_outside_is_told_as_a_want_of_memory(pictures, tmp_path):
    others = children(os.getpid())
    events = find_poses(pictures, tmp_path, PARAMS, False)
    next(events)
    for child in children(os.getpid()):
        if child not in others:
            child.kill()
    with pytest.raises(DatasetError, match="killed at stage features, most likely for want of memory"):
        list(events)


def test_colmaps_process_loads_no_torch_and_draws_nothing():
    heavy = "{'torch', 'matplotlib', 'numba'}"
    code = f"import sys, tasks.splatting.poses.colmap_process; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_sigterm_stays_with_whoever_asks_for_poses(found):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "pycolmap" not in sys.modules
    assert (found[1] / LOG).stat().st_size > 0


@pytest.mark.parametrize("kind", ["identical", "black"])
def test_pictures_without_any_view_to_compare_are_refused(kind, tmp_path):
    (tmp_path / "pictures").mkdir()
    same = render(make_room(0), demo_cameras()[0]) if kind == "identical" else np.zeros((240, 320, 3), np.uint8)
    for index in range(4):
        write_jpeg(tmp_path / "pictures" / f"{index}.jpg", same, 95)
    params = PARAMS.model_copy(update={"min_registered": 4})
    lack = "turned on the spot" if kind == "identical" else "little texture"
    with pytest.raises(DatasetError, match=rf"^0 of 4 images could be placed .*{lack}"):
        list(find_poses(tmp_path / "pictures", tmp_path / "poses", params, False))


def test_fewer_pictures_than_needed_are_refused_at_once(pictures, tmp_path):
    (tmp_path / "pictures").mkdir()
    for path in sorted(pictures.iterdir())[:3]:
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DatasetError, match=r"3 image\(s\) in .*, need at least 10 \(min_registered\)"):
        next(find_poses(tmp_path / "pictures", tmp_path / "poses", PARAMS, False))


def test_a_colmap_model_that_is_there_already_is_taken_over(found, pictures, tmp_path):
    source = tmp_path / "source"
    (source / "sparse").mkdir(parents=True)
    (source / "images").symlink_to(pictures)
    (source / "sparse" / "0").symlink_to(found[1] / MODELS / "0")
    report = list(adopt(source, tmp_path / "poses", 160, PARAMS))[-1]
    assert (report.registered, report.total, report.missing) == (N, N, ())
    scene = read_scene(report.scene)
    assert max(scene.views[0].camera.width, scene.views[0].camera.height) == 160
    np.testing.assert_allclose(scene.centers, read_scene(found[0][-1].scene).centers, atol=1e-9)


READ = """
import sys, pycolmap
model = pycolmap.Reconstruction(sys.argv[1])
print(model.num_points3D(), model.compute_mean_track_length(), model.compute_mean_reprojection_error())
"""


@pytest.mark.parametrize("k1", [0.0, -0.1])
def test_points_that_lack_are_triangulated_from_the_known_cameras(cameras, pictures, tmp_path, k1):
    first = cameras[0]
    frames = [
        {
            "file_path": f"{camera.name}.jpg",
            "transform_matrix": (np.linalg.inv(camera.world_to_camera) @ np.diag([1.0, -1, -1, 1])).tolist(),
        }
        for camera in cameras
    ]
    lens = {"fl_x": first.fx, "fl_y": first.fy, "cx": first.cx, "cy": first.cy, "k1": k1}
    (pictures / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    events = list(adopt(pictures, tmp_path, 640, PARAMS))
    (pictures / "transforms.json").unlink()
    report, scene = events[-1], read_scene(events[-1].scene)
    steps = [event.work for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(steps)) == ["features", "matches", "points", "undistort"]
    assert report.points == len(scene.points) > 300
    assert 2 < report.track_length < N
    assert report.reprojection_error_px < (0.5 if k1 == 0 else 3)  # the images were taken without distortion
    assert np.ptp(scene.colors.astype(int), axis=0).min() > 50
    np.testing.assert_allclose(scene.centers, [camera.center for camera in cameras], atol=1e-9)
    model = report.scene / "sparse" / "0"
    command = [sys.executable, "-c", READ, str(model)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(said[0]) == report.points
    assert [float(value) for value in said[1:]] == pytest.approx(
        [report.track_length, report.reprojection_error_px], rel=0.2
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colmap.log", "job.json", "known.json", "undistorted"]


RENAME = """
import sys, pycolmap
source, target, prefix = sys.argv[1:]
model = pycolmap.Reconstruction(source)
for number in model.reg_image_ids():
    model.image(number).name = prefix + model.image(number).name
model.write(target)
"""


def renamed(found, pictures, source, prefix, **save):
    """Write the model that was found, with its images under other names, and return how it is taken over."""
    (source / "images").mkdir(parents=True)
    (source / "sparse" / "0").mkdir(parents=True)
    command = [sys.executable, "-c", RENAME, found[1] / MODELS / "0", source / "sparse" / "0", prefix]
    subprocess.run(list(map(str, command)), check=True)  # not here: pycolmap takes SIGTERM over
    for path in pictures.iterdir():
        target = source / "images" / f"{prefix}{path.name}"
        target.parent.mkdir(exist_ok=True)
        with Image.open(path) as image:
            image.save(target, **save)
    return adopt(source, source / "poses", 160, PARAMS)


def test_pictures_of_a_model_may_lie_in_folders_and_say_how_they_were_held(found, pictures, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a telephone held upright; the model's cameras are of the pixels as stored
    events = list(renamed(found, pictures, tmp_path / "in", "cam1/", exif=exif))
    report = events[-1]
    assert (report.registered, report.total, report.missing) == (N, N, ())
    view = read_scene(report.scene).views[0]
    assert load_image(view, 160).rgb.shape == (view.camera.height, view.camera.width, 3)
    with Image.open(view.image) as image:
        assert not image.getexif()
    assert len(write_pose_report(report, tmp_path / "no frames", tmp_path / "report")) == 2


def test_a_model_that_names_pictures_elsewhere_is_refused(found, pictures, tmp_path):
    with pytest.raises(DatasetError, match=r"names \.\./elsewhere/.*, which leads out of"):
        list(renamed(found, pictures, tmp_path / "in", "../elsewhere/"))
    assert not (tmp_path / "in" / "poses" / UNDISTORTED).exists()


def test_pictures_of_two_sizes_are_taken_as_two_cameras(pictures, tmp_path):
    (tmp_path / "pictures").mkdir()
    for index, path in enumerate(sorted(pictures.iterdir())):
        rgb = read_rgb(path)
        small = rgb if index % 3 else np.asarray(cv2.resize(rgb, (256, 192), interpolation=cv2.INTER_AREA), np.uint8)
        write_jpeg(tmp_path / "pictures" / path.name, small, 95)
    report = list(find_poses(tmp_path / "pictures", tmp_path / "poses", PARAMS, True))[-1]
    widths = [view.camera.width for view in read_scene(report.scene).views]
    assert report.registered >= N - 1
    assert max(widths) > 300 > 256 >= min(widths)
