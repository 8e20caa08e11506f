import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.base.errors import ConfigError, DatasetError
from tasks.base.progress import Note
from tasks.images.images import read_rgb
from tasks.splatting.capture.frame_table import FramesReport
from tasks.splatting.capture.frames import extract_frames
from tasks.splatting.capture.photos import focal_35mm, photographs
from tasks.splatting.capture.pixels import shrunk
from tasks.splatting.params import FramesParams
from tasks.tracking.mlflow_names import check_name
from tests.tasks.splatting.videos import panned, wall

WALL = wall()


def shoot(folder, names, **save):
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(panned(5 * index, WALL)).save(folder / name, **save)
    return folder


def extract(source, target, **params):
    events = list(extract_frames(source, target, FramesParams(**params)))
    assert isinstance(events[-1], FramesReport)
    return events[-1], [event.text for event in events if isinstance(event, Note)]


def test_all_photographs_are_taken_numbered_in_their_order(tmp_path):
    source = shoot(tmp_path / "in", ["b.png", "a.jpg", "c.tif", "notes.bmp"])
    (source / "readme.txt").write_text("hello")
    (source / ".hidden.jpg").write_bytes(b"")
    report, notes = extract(source, tmp_path / "out", n_frames=3000)
    assert report.names == ("00001_a.jpg", "00002_b.jpg", "00003_c.jpg", "00004_notes.jpg")
    assert sorted(path.name for path in report.images.iterdir()) == sorted(report.names)
    assert not notes


def test_numbers_in_names_count_by_their_value(tmp_path):
    source = shoot(tmp_path / "in", ["shot10.jpg", "shot9.jpg", "shot1.jpg"])
    assert [path.name for path in photographs(source)] == ["shot1.jpg", "shot9.jpg", "shot10.jpg"]


def test_numbers_keep_neighbours_together_where_names_are_sorted_as_text(tmp_path):
    report, _ = extract(shoot(tmp_path / "in", [f"{i}.jpg" for i in (1, 2, 9, 10, 11)]), tmp_path / "out")
    assert sorted(report.names) == list(report.names)
    assert [name[6:] for name in report.names] == ["1.jpg", "2.jpg", "9.jpg", "10.jpg", "11.jpg"]


def test_whatever_a_photograph_is_called_its_copy_has_a_name_that_everybody_takes(tmp_path):
    names = ["IMG_0001 (2).jpg", "k\u00fcche.jpg", "\u9e1f.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    report, _ = extract(shoot(tmp_path / "in", names), tmp_path / "out")
    assert len(report.names) == 4
    for name in report.names:
        check_name("image", f"held_out/{Path(name).stem}")


def test_a_link_out_of_the_allowed_roots_is_refused(tmp_path, monkeypatch):
    outside, source = shoot(tmp_path / "elsewhere", ["a.jpg", "b.jpg", "c.jpg"]), tmp_path / "in"
    source.mkdir()
    for path in outside.iterdir():
        (source / path.name).symlink_to(path)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINYARD_ALLOWED_ROOTS", str(source))
    with pytest.raises(ConfigError, match=r"\.jpg leads outside the allowed roots"):
        photographs(source)


def test_two_photographs_of_one_stem_stay_two(tmp_path):
    report, _ = extract(shoot(tmp_path / "in", ["a.jpg", "a.png", "b.jpg"]), tmp_path / "out")
    assert report.names == ("00001_a.jpg", "00002_a.jpg", "00003_b.jpg")


def test_more_than_asked_for_are_thinned_evenly_and_said(tmp_path):
    report, notes = extract(shoot(tmp_path / "in", [f"{i:02}.jpg" for i in range(20)]), tmp_path / "out", n_frames=5)
    assert [name.partition("_")[2] for name in report.names] == ["02.jpg", "06.jpg", "10.jpg", "14.jpg", "18.jpg"]
    assert notes == ["5 of 20 photographs are taken, evenly chosen by name (n_frames)"]


def test_photographs_are_turned_upright_and_bounded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # quarter turn clockwise
    report, _ = extract(shoot(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"], exif=exif), tmp_path / "out", max_side=64)
    assert {read_rgb(report.images / name).shape for name in report.names} == {(64, 48, 3)}


def test_the_focal_length_stays_and_nothing_else_of_the_exif(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0xA405] = 28
    exif.get_ifd(0x8825)[1] = "N"
    report, _ = extract(shoot(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"], exif=exif), tmp_path / "out")
    with Image.open(report.images / report.names[0]) as image:
        kept = image.getexif()
        assert set(kept) == {0x8769}
        assert dict(kept.get_ifd(0x8769)) == {0xA405: 28}
    assert focal_35mm(report.images / report.names[0]) == 28


def test_a_jpeg_that_needs_no_change_keeps_its_pixels_and_loses_every_word_about_them(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8769)[0xA405] = 28
    said = {"exif": exif, "comment": b"by me", "xmp": b"<x:xmpmeta>here</x:xmpmeta>", "icc_profile": b"profile" * 9}
    source = shoot(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"], quality=70, **said)
    before = read_rgb(source / "b.jpg")
    (source / "c.jpg").write_bytes((source / "c.jpg").read_bytes() + b"a film of the minute before\xff\xd9")
    report, _ = extract(source, tmp_path / "out")
    np.testing.assert_array_equal(read_rgb(report.images / "00002_b.jpg"), before)
    for name in report.names:
        data = (report.images / name).read_bytes()
        assert not [word for word in (b"by me", b"xmpmeta", b"profile", b"minute") if word in data]
        assert focal_35mm(report.images / name) == 28
        with Image.open(report.images / name) as image:
            assert set(image.getexif()) == {0x8769}


@pytest.mark.parametrize("change", ["turned", "shrunk", "png", "cmyk"])
def test_a_photograph_that_has_to_be_written_again_loses_next_to_nothing(tmp_path, change):
    exif = Image.Exif()
    exif[0x0112] = 3
    names = [f"{index}.{'png' if change == 'png' else 'jpg'}" for index in range(3)]
    source = shoot(tmp_path / "in", names, **({"exif": exif} if change == "turned" else {}))
    if change == "cmyk":
        for name in names:
            Image.open(source / name).convert("CMYK").save(source / name)
    report, _ = extract(source, tmp_path / "out", max_side=64 if change == "shrunk" else 4000)
    want = shrunk(read_rgb(source / names[0]), 64 if change == "shrunk" else 4000).astype(float)
    error = read_rgb(report.images / report.names[0]) - want
    assert 10 * np.log10(255**2 / (error**2).mean()) > 40  # dB; splats come to 30


def test_a_photograph_without_exif_has_no_focal_length(tmp_path):
    assert focal_35mm(shoot(tmp_path / "in", ["a.jpg"]) / "a.jpg") is None


def test_one_unreadable_of_ten_is_named_and_left_out(tmp_path):
    source = shoot(tmp_path / "in", [f"{i}.jpg" for i in range(10)])
    (source / "3.jpg").write_bytes(b"not an image")
    report, notes = extract(source, tmp_path / "out")
    assert len(report.names) == 9
    assert [note for note in notes if note.startswith("left out: not an image") and "3.jpg" in note] == notes


def test_two_unreadable_of_ten_are_too_many(tmp_path):
    source = shoot(tmp_path / "in", [f"{i}.jpg" for i in range(10)])
    for name in ("3.jpg", "7.jpg"):
        (source / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="2 of 10 photographs .* cannot be read, at most 10% may: .*3.jpg.*7.jpg"):
        extract(source, tmp_path / "out")


def test_a_black_photograph_is_left_out_and_said(tmp_path):
    source = shoot(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"])
    Image.fromarray(np.zeros((96, 128, 3), np.uint8)).save(source / "d.jpg")
    report, notes = extract(source, tmp_path / "out")
    assert report.names == ("00001_a.jpg", "00002_b.jpg", "00003_c.jpg")
    assert notes == ["left out, black: d.jpg"]


@pytest.mark.parametrize(
    ("names", "message"), [([], "no photograph in"), (["a.heic", "b.HEIC"], r"holds \.heic: convert")]
)
def test_a_folder_without_photographs_says_what_it_holds(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match=message):
        extract(tmp_path, tmp_path / "out")


def test_two_photographs_are_too_few(tmp_path):
    with pytest.raises(DatasetError, match=r"2 usable image\(s\) of 2 looked at, need at least 3"):
        extract(shoot(tmp_path / "in", ["a.jpg", "b.jpg"]), tmp_path / "out")
