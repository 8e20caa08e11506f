"""What a path means, and that what cannot be used is refused with one clear sentence before anything is loaded."""

import glob
import json
from pathlib import Path

import av
import numpy as np
import pytest

from tasks.base.errors import ConfigError, DatasetError, ImageError
from tasks.images.params import PrepareParams
from tasks.inference.sources import jobs, open_source
from tasks.signals.params import SpectrogramParams

RADIO = SpectrogramParams(sample_rate_hz=1e4, frame_s=0.1, n_fft=64, width=48, height=32)


def write_video(path, n=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(n):
            grey = np.full((48, 64, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


def write_recording(path, seconds=0.35, extra=b""):
    samples = np.random.default_rng(0).standard_normal(2 * round(seconds * 1e4)).astype("<f4")
    path.write_bytes(samples.tobytes() + extra)


def made(path, every_n=1):
    return [
        (job.time_s, job.pixels().shape) for job in jobs(open_source(path, RADIO), every_n, RADIO, PrepareParams(), 32)
    ]


def test_a_folder_is_every_picture_below_it_sorted(pictures):
    (pictures / "notes.txt").write_text("no image")
    source = open_source(pictures, RADIO)
    assert (source.kind, source.total(1)) == ("folder", 6)
    assert [path.name for path in source.images] == [f"{i}.png" for i in range(6)]
    assert made(pictures) == [(None, (40, 60, 3))] * 6


def test_a_glob_is_what_it_matches(pictures):
    assert [path.name for path in open_source(pictures / "**" / "[45].png", RADIO).images] == ["4.png", "5.png"]


def test_a_glob_finds_what_python_s_own_finds(pictures):
    (pictures / ".hidden").mkdir()
    for name in ("b/c/d.png", ".hidden/e.png", "b/.f.png"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes((pictures / "0.png").read_bytes())
    for pattern in ("*", "*.png", "**", "**/*.png", "**/c/*", "b/**/d.png", "*/*/*.png", "./b/c/[a-d].png", "*/.f.png"):
        wanted = {path for path in glob.glob(f"{pictures}/{pattern}", recursive=True) if path.endswith(".png")}
        found = open_source(pictures / pattern, RADIO).images if wanted else ()
        assert {str(path) for path in found} == {str(Path(path).resolve()) for path in wanted}, pattern


def test_links_that_lead_in_circles_do_not_multiply_what_a_glob_finds(pictures):
    for name in ("one", "two"):
        (pictures / name).symlink_to(pictures)
    assert len(open_source(pictures / "**" / "*.png", RADIO).images) == 6


def test_a_recording_of_whole_numbers_or_with_sigmf_metadata_is_read(tmp_path):
    samples = (3000 * np.random.default_rng(0).standard_normal(7000)).astype("<i2")
    (tmp_path / "a.cs16").write_bytes(samples.tobytes())
    (tmp_path / "b.sigmf-data").write_bytes(samples.tobytes())
    told = {"global": {"core:datatype": "ci16_le", "core:sample_rate": 1e4}, "captures": []}
    (tmp_path / "b.sigmf-meta").write_text(json.dumps(told))
    for name in ("a.cs16", "b.sigmf-data", "b.sigmf-meta"):
        assert made(tmp_path / name) == [(pytest.approx(0.1 * i), (32, 48, 3)) for i in range(3)]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(pictures):
    (pictures / "0.png").rename(pictures / "a[1].png")
    assert open_source(pictures / "a[1].png", RADIO).kind == "image"


def test_of_a_video_every_nth_picture_comes_with_its_time(tmp_path):
    write_video(tmp_path / "a.mp4")
    assert open_source(tmp_path / "a.mp4", RADIO).total(5) == 3
    found = made(tmp_path / "a.mp4", every_n=5)
    assert [time for time, _ in found] == pytest.approx([0, 0.5, 1.0])
    assert {shape for _, shape in found} == {(48, 64, 3)}


def test_a_recording_becomes_a_picture_per_frame(tmp_path):
    write_recording(tmp_path / "a.iq")
    assert open_source(tmp_path / "a.iq", RADIO).total(5) == 3
    assert made(tmp_path / "a.iq") == [(pytest.approx(0.1 * i), (32, 48, 3)) for i in range(3)]


def test_a_frame_is_read_when_it_is_drawn_and_one_that_cannot_be_is_named_alone(tmp_path):
    write_recording(tmp_path / "a.iq", seconds=0.5)
    todo = list(jobs(open_source(tmp_path / "a.iq", RADIO), 1, RADIO, PrepareParams(), 32))
    with (tmp_path / "a.iq").open("r+b") as file:
        file.seek(8 * 1500)
        file.write(np.array([np.nan], "<f4").tobytes())
        file.truncate(8 * 4000)
    assert [todo[i].pixels().shape for i in (0, 2, 3)] == [(32, 48, 3)] * 3
    with pytest.raises(ImageError, match=r"NaN or infinite samples.*frame 1 of .*a\.iq"):
        todo[1].pixels()
    with pytest.raises(ImageError, match="the file shrank"):
        todo[4].pixels()


def test_a_recording_of_odd_length_is_refused(tmp_path):
    write_recording(tmp_path / "a.iq", extra=b"abc")
    with pytest.raises(DatasetError, match=r"found 28003 bytes, need a multiple of 8 .*a\.iq"):
        open_source(tmp_path / "a.iq", RADIO)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="found no image among 1 file"):
        open_source(tmp_path, RADIO)


def test_a_glob_without_a_match_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="found no image among 0 match"):
        open_source(tmp_path / "*.jpg", RADIO)


def test_nothing_and_files_of_no_known_kind_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="found nothing at .*absent"):
        open_source(tmp_path / "absent", RADIO)
    (tmp_path / "a.pdf").write_text("%PDF")
    with pytest.raises(DatasetError, match=r"found a file \.pdf, need an image"):
        open_source(tmp_path / "a.pdf", RADIO)


def test_paths_and_links_that_lead_outside_are_refused(pictures, tmp_path, monkeypatch):
    outside = tmp_path / "outside.png"
    (pictures / "0.png").rename(outside)
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(pictures))
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match="outside the allowed roots"):
        open_source(outside, RADIO)
    assert open_source(pictures, RADIO).total(1) == 5
    (pictures / "link.png").symlink_to(outside)
    for path in (pictures, pictures / "link.png", pictures / "*.png"):
        with pytest.raises(ConfigError, match="outside the allowed roots"):
            open_source(path, RADIO)
