import os
import subprocess
import sys
import wave

import cv2
import numpy as np
import pytest

from tasks.base.errors import DatasetError
from tasks.images.video import decode, probe
from tests.tasks.splatting.videos import HEIGHT, WIDTH, panned, wall, write_video

WALL = wall()


def moving(index):
    return panned(4.0 * index, WALL)


def corner_marked(index):
    """An image whose upper left quarter is red."""
    picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = (220, 20, 20)
    return picture


def red_quarter(rgb):
    """Return (row half, column half) of the reddest quarter."""
    height, width = rgb.shape[:2]
    red = rgb[..., 0].astype(int) - rgb[..., 1]
    quarters = {
        (i, j): red[i * height // 2 : (i + 1) * height // 2, j * width // 2 : (j + 1) * width // 2].mean()
        for i in (0, 1)
        for j in (0, 1)
    }
    return max(quarters, key=quarters.get)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx265", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mkv", "ffv1", "yuv444p"),
        ("av1.mp4", "libsvtav1", "yuv420p"),
        ("av1.mkv", "libsvtav1", "yuv420p10le"),
    ],
)
def test_every_picture_of_every_codec_comes_in_order_at_its_time(tmp_path, name, codec, pix_fmt):
    path = write_video(tmp_path / name, 12, moving, codec=codec, pix_fmt=pix_fmt)
    info = probe(path)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    pictures = [(picture.index, picture.time_s, picture.rgb()) for picture in decode(path)]
    assert [index for index, _, _ in pictures] == list(range(12))
    assert [time_s for _, time_s, _ in pictures] == pytest.approx([0.1 * index for index in range(12)], abs=2e-3)
    assert (info.n_packets, info.width, info.height) == (12, WIDTH, HEIGHT)
    assert info.duration_s == pytest.approx(1.2, abs=0.11)  # some containers do not say how long the last one stands
    assert info.bits == (10 if pix_fmt.endswith("10le") else 8)
    for index, _, rgb in pictures:
        assert np.abs(rgb.astype(int) - moving(index)).mean() < 12  # grey levels; a shift of one image costs 30


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])  # one decoded by OpenCV, one by PyAV
@pytest.mark.parametrize(("degrees", "quarter"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_pictures_are_turned_upright_by_the_flag_telephones_write(tmp_path, codec, degrees, quarter):
    path = write_video(tmp_path / "a.mp4", 4, corner_marked, codec=codec, rotation=degrees)
    rgb = [picture.rgb() for picture in decode(path)][-1]
    assert rgb.shape[:2] == ((WIDTH, HEIGHT) if degrees != 180 else (HEIGHT, WIDTH))
    assert red_quarter(rgb) == quarter


def test_times_of_a_varying_frame_rate_are_those_of_its_packets(tmp_path):
    times = [0, 40, 80, 500, 540, 1500, 1533, 3000]
    path = write_video(tmp_path / "a.mp4", len(times), moving, times=times)
    assert [picture.time_s for picture in decode(path)] == pytest.approx([t / 1000 for t in times], abs=2e-3)
    assert probe(path).duration_s >= 3.0


@pytest.mark.parametrize(("color_trc", "name"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_high_dynamic_range_is_told_by_its_transfer_curve(tmp_path, color_trc, name):
    path = write_video(tmp_path / "a.mp4", 3, moving, codec="libx265", pix_fmt="yuv420p10le", color_trc=color_trc)
    assert probe(path).hdr == name


def test_a_stream_without_a_container_has_the_times_of_its_rate(tmp_path):
    path = write_video(tmp_path / "a.h264", 12, moving, rate=25)
    times = [picture.time_s for picture in decode(path)]
    assert times == pytest.approx([index / 25 for index in range(12)], abs=2e-3)


def test_a_file_without_its_index_is_called_truncated(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, moving)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError, match=r"^truncated: .*index \(moov\) is missing"):
        probe(path)


def test_what_came_before_the_cut_is_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", 60, moving, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    info = probe(path)
    assert 10 < info.n_packets < 55
    assert info.promised_s == pytest.approx(6.0, abs=0.2)
    assert info.n_packets - 5 <= sum(1 for _ in decode(path)) <= info.n_packets


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "^empty file, 0 bytes"), (b"hello " * 100, "^not a video"), (bytes(5000), "^not a video")],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, content, message):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        probe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read, No such file or directory: .*nowhere.mp4"):
        probe(tmp_path / "nowhere.mp4")


def test_a_playlist_is_not_followed(tmp_path):
    write_video(tmp_path / "part.ts", 5, moving, codec="mpeg4")
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\npart.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DatasetError, match="need a video such as|not a video"):
        probe(path)


def test_a_file_of_sound_alone_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(DatasetError, match="need a video"):
        probe(path)


def test_a_picture_is_made_into_pixels_only_when_asked(tmp_path):
    path = write_video(tmp_path / "a.mp4", 9, moving)
    third = next(picture.rgb() for picture in decode(path) if picture.index == 3)
    capture = cv2.VideoCapture(str(path))
    bgr = [capture.read()[1] for _ in range(4)][-1]
    capture.release()
    assert np.array_equal(third, bgr[..., ::-1])


def test_reading_a_video_loads_no_prefect_torch_or_mlflow():
    heavy = "{'prefect', 'torch', 'mlflow', 'pycolmap'}"
    code = f"import sys, tasks.splatting.capture.frames; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
