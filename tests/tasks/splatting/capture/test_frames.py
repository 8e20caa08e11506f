import subprocess
import sys

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.base.progress import Note, Progress
from tasks.images.images import read_rgb
from tasks.splatting.capture.frame_table import FramesReport, read_table
from tasks.splatting.capture.frames import extract_frames
from tasks.splatting.params import FramesParams
from tasks.splatting.resume_point import FRAMES_TABLE
from tests.tasks.splatting.videos import HEIGHT, WIDTH, panned, wall, write_video

WALL = wall()


def moving(index):
    return panned(4.0 * index, WALL)


def extract(source, folder, **params):
    events = list(extract_frames(source, folder, FramesParams(**params)))
    assert isinstance(events[-1], FramesReport)
    return events[-1], [event.text for event in events if isinstance(event, Note)]


def indices(report):
    return [row.index for row in report.rows if row.chosen]


def test_the_sharpest_picture_of_each_window_is_taken(tmp_path):
    sharp = {3, 9, 12, 18, 22, 29}

    def shaky(index):
        picture = moving(index)
        return picture if index in sharp else np.asarray(cv2.GaussianBlur(picture, (0, 0), 2.5), np.uint8)

    source = write_video(tmp_path / "a.mp4", 30, shaky, options={"crf": "12"})
    report, notes = extract(source, tmp_path / "out", n_frames=6)
    assert indices(report) == sorted(sharp)
    assert not notes


def test_without_sharpest_the_middle_of_each_window_is_taken(tmp_path):
    source = write_video(tmp_path / "a.mp4", 30, moving)
    report, _ = extract(source, tmp_path / "out", n_frames=6, sharpest=False)
    assert indices(report) == [2, 7, 12, 17, 22, 27]
    assert len(report.rows) == 6


def test_as_many_pictures_as_frames_takes_every_one(tmp_path):
    source = write_video(tmp_path / "a.mp4", 45, moving, rate=15)
    report, notes = extract(source, tmp_path / "out", n_frames=100)
    assert indices(report) == list(range(45))
    assert any("100 images were asked for, a.mp4 has 45" in note for note in notes)


def test_a_rate_decides_how_many(tmp_path):
    source = write_video(tmp_path / "a.mp4", 40, moving)
    report, _ = extract(source, tmp_path / "out", frames_per_second=2)
    assert len(report.names) == 8
    times = [row.time_s for row in report.rows if row.chosen]
    assert all(0.5 * index <= time < 0.5 * (index + 1) for index, time in enumerate(times))


def test_windows_are_equal_in_time_not_in_number_of_frames(tmp_path):
    times = [*range(0, 1000, 50), *range(1000, 5000, 500)]
    source = write_video(tmp_path / "a.mp4", len(times), moving, times=times)
    report, _ = extract(source, tmp_path / "out", n_frames=5)
    chosen = [row.time_s for row in report.rows if row.chosen]
    assert [int(time) for time in chosen] == [0, 1, 2, 3, 4]


def test_a_pause_of_the_camera_gives_one_picture(tmp_path):
    source = write_video(tmp_path / "a.mp4", 40, lambda index: moving(min(index, 10) + max(0, index - 30)))
    report, notes = extract(source, tmp_path / "out", n_frames=40)
    assert indices(report) == [*range(11), *range(31, 40)]
    assert any("20 of 40 images were left out: they show the same view" in note for note in notes)
    assert next(row.reason for row in report.rows if row.index == 20) == "same view as frame 10"
    kept, _ = extract(source, tmp_path / "all", n_frames=40, drop_duplicates=False)
    assert len(kept.names) == 40


def test_slow_motion_adds_up_until_there_is_something_new(tmp_path):
    source = write_video(
        tmp_path / "a.mp4", 40, lambda index: moving(0.02 * index), options={"crf": "10"}
    )  # 0.08 px each
    report, _ = extract(source, tmp_path / "out", n_frames=40)
    gaps = np.diff(indices(report))
    assert len(report.names) > 5
    assert gaps.min() >= 3  # 0.24 px of 128 are 0.002
    assert gaps.max() <= 6


def test_a_camera_that_stands_still_is_refused_with_what_to_film(tmp_path):
    source = write_video(tmp_path / "a.mp4", 20, lambda index: moving(0))
    with pytest.raises(
        DatasetError, match=r"1 usable image\(s\) of 20 .* need at least 3; 19 show the same view .* Walk"
    ):
        extract(source, tmp_path / "out", n_frames=20)
    assert not list(tmp_path.glob("out*"))


def test_black_images_are_left_out_and_a_black_video_refused(tmp_path):
    dark = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    source = write_video(tmp_path / "a.mp4", 12, lambda index: dark if index < 4 else moving(index))
    report, _ = extract(source, tmp_path / "out", n_frames=12)
    assert indices(report) == list(range(4, 12))
    assert {row.reason for row in report.rows if not row.chosen} == {"black"}
    with pytest.raises(DatasetError, match="0 usable .* 12 are black .* more light"):
        extract(write_video(tmp_path / "b.mp4", 12, lambda index: dark), tmp_path / "b", n_frames=12)


def test_two_pictures_are_too_few(tmp_path):
    source = write_video(tmp_path / "a.mp4", 2, moving)
    with pytest.raises(DatasetError, match="2 usable .* need at least 3; film longer"):
        extract(source, tmp_path / "out")


def test_pictures_are_bounded_and_keep_their_proportions(tmp_path):
    source = write_video(tmp_path / "a.mp4", 5, moving, rotation=90)
    report, _ = extract(source, tmp_path / "out", n_frames=5, max_side=64)
    assert {read_rgb(report.images / name).shape for name in report.names} == {(64, 48, 3)}


def test_a_video_that_only_the_second_decoder_reads_gives_the_same_choice(tmp_path):
    source = write_video(tmp_path / "a.mp4", 12, moving, codec="libsvtav1", options={"preset": "12"})
    report, _ = extract(source, tmp_path / "out", n_frames=4)
    assert len(report.names) == 4
    assert {read_rgb(report.images / name).shape for name in report.names} == {(HEIGHT, WIDTH, 3)}


def test_high_dynamic_range_is_said(tmp_path):
    source = write_video(tmp_path / "a.mp4", 6, moving, codec="libx265", pix_fmt="yuv420p10le", color_trc=18)
    _, notes = extract(source, tmp_path / "out")
    assert any("HDR video (HLG, 10 bit)" in note for note in notes)


def test_a_video_that_ends_early_is_used_and_said(tmp_path):
    source = write_video(tmp_path / "a.mp4", 80, moving, container_options={"movflags": "faststart"})
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    report, notes = extract(source, tmp_path / "out", n_frames=10)
    assert len(report.names) >= 3
    assert any("ends early: its header says 8 s" in note for note in notes)


def test_the_table_tells_of_every_picture_looked_at(tmp_path):
    source = write_video(tmp_path / "a.mp4", 30, moving)
    report, _ = extract(source, tmp_path / "out", n_frames=6)
    lines = (tmp_path / "out" / FRAMES_TABLE).read_text().splitlines()
    assert lines[0] == "index,time_s,sharpness,chosen,reason,name"
    rows = read_table(tmp_path / "out" / FRAMES_TABLE)
    assert [row.index for row in rows] == list(range(30))
    assert (
        [row.name for row in rows if row.chosen]
        == list(report.names)
        == sorted(p.name for p in report.images.iterdir())
    )
    assert {row.reason for row in rows if not row.chosen} == {"less sharp than another of its window"}


def test_progress_grows_to_the_end(tmp_path):
    source = write_video(tmp_path / "a.mp4", 60, moving)
    steps = [e for e in extract_frames(source, tmp_path / "out", FramesParams(n_frames=5)) if isinstance(e, Progress)]
    assert [step.done for step in steps] == [25, 50, 60]
    assert {step.total for step in steps} == {60}


def test_stopping_half_way_leaves_nothing(tmp_path):
    source = write_video(tmp_path / "a.mp4", 60, moving)
    events = extract_frames(source, tmp_path / "out", FramesParams(n_frames=5))
    next(events)
    events.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.long
def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path):
    large = np.asarray(cv2.resize(WALL, (3840, 2160)), np.uint8)
    peaks = []
    for n_frames in (40, 240):
        source = write_video(
            tmp_path / f"{n_frames}.mp4", n_frames, lambda i: np.roll(large, 8 * i, 1), options={"preset": "ultrafast"}
        )
        code = (
            "import sys, resource\nfrom pathlib import Path\n"
            "from tasks.splatting.capture.frames import extract_frames\n"
            "from tasks.splatting.params import FramesParams\n"
            "list(extract_frames(Path(sys.argv[1]), Path(sys.argv[2]), FramesParams(n_frames=20)))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        argv = [sys.executable, "-c", code, str(source), str(tmp_path / f"out{n_frames}")]
        peaks.append(int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout) / 1024)
    assert peaks[1] < 2048  # MiB
    assert peaks[1] < peaks[0] + 150
