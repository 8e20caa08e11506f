"""What is still being copied is left alone, by whatever program; what has settled is found, with its parameters."""

import os
import socket
import subprocess
import sys

import pytest

from deployments.inbox.settling import Settling, is_temporary, lonely, signature, why_not
from tasks.base.processes import is_written


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def drop(tmp_path):
    folder = tmp_path / "splatting"
    folder.mkdir()
    return folder


def ready(settling, folder):
    return {one.path.name: one for one in settling.look([folder]) if not one.why}


def test_a_file_is_taken_once_nothing_of_it_has_changed_for_a_while(drop, clock):
    settling = Settling(5, clock)
    (drop / "room.mp4").write_bytes(b"1")
    for clock.now, content in ((0, b"12"), (3, b"123"), (6, b"1234"), (9, b"12345")):
        (drop / "room.mp4").write_bytes(content)
        assert not ready(settling, drop)
    clock.now = 13
    assert not ready(settling, drop)
    clock.now = 14
    assert list(ready(settling, drop)) == ["room.mp4"]


def test_a_folder_settles_as_a_whole(drop, clock):
    settling = Settling(5, clock)
    (drop / "photos" / "inner").mkdir(parents=True)
    (drop / "photos" / "a.jpg").write_bytes(b"1")
    assert not ready(settling, drop)
    clock.now = 4
    (drop / "photos" / "inner" / "b.jpg").write_bytes(b"1")
    assert not ready(settling, drop)
    clock.now = 8
    assert not ready(settling, drop)
    clock.now = 9
    assert list(ready(settling, drop)) == ["photos"]


@pytest.mark.parametrize(
    "name",
    [".room.mp4.Xa3f9K", "room.mp4.part", "room.mp4.filepart", "room.crdownload", "room.mp4~", ".hidden", ".~tmp~"],
)
def test_names_of_copies_under_way_are_no_data(drop, clock, name):
    settling = Settling(0, clock)
    (drop / name).write_bytes(b"1")
    settling.look([drop])
    assert settling.look([drop]) == []


def test_a_folder_with_a_copy_under_way_in_it_is_not_whole(drop, clock):
    settling = Settling(0, clock)
    (drop / "photos").mkdir()
    (drop / "photos" / ".b.jpg.Xa3f9K").write_bytes(b"1")
    settling.look([drop])
    (found,) = settling.look([drop])
    assert found.why == "holds a copy that has not ended: .b.jpg.Xa3f9K"
    assert not any(map(is_temporary, [".gitignore", ".DS_Store", "a.jpg", "a.b.c", ".config.json"]))


def test_a_file_that_a_process_has_open_to_write_is_not_whole(drop, clock):
    settling = Settling(0, clock)
    path = drop / "room.mp4"
    code = "import sys; f = open(sys.argv[1], 'wb'); f.write(b'1'); f.flush(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=-1, stdout=-1) as process:
        process.stdout.readline()
        settling.look([drop])
        (found,) = settling.look([drop])
        assert found.why == "a process has it open to write"
        assert is_written(drop)
        process.stdin.close()
        process.wait()
    with path.open("rb"):
        assert list(ready(settling, drop)) == ["room.mp4"]


def test_what_rsync_brings_slowly_is_taken_whole(drop, tmp_path):
    source = tmp_path / "room.mp4"
    source.write_bytes(os.urandom(1 << 20))
    command = ["rsync", "--bwlimit=500", str(source), f"{drop}/"]
    settling = Settling(0.3)
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            assert not ready(settling, drop)
    found = {}
    while not found:
        found = ready(settling, drop)
    assert found["room.mp4"].path.read_bytes() == source.read_bytes()


def test_an_archive_is_known_without_both_its_suffixes(drop, clock):
    settling = Settling(0, clock)
    (drop / "room.tar.gz").write_bytes(b"1")
    (drop / "room.yaml").write_text("fit: {}")
    settling.look([drop])
    assert ready(settling, drop)["room.tar.gz"].yaml == drop / "room.yaml"


@pytest.mark.parametrize("name", ["room.mp4.yaml", "room.yaml", "room.yml"])
def test_parameters_lie_beside_their_data(drop, clock, name):
    settling = Settling(5, clock)
    (drop / "room.mp4").write_bytes(b"1")
    (drop / name).write_text("fit: {}")
    settling.look([drop])
    clock.now = 4
    (drop / name).write_text("fit: {preset: quick}")
    settling.look([drop])
    clock.now = 6
    assert not ready(settling, drop)  # the parameters have changed
    clock.now = 9
    assert ready(settling, drop)["room.mp4"].yaml == drop / name
    assert list(lonely(drop)) == []


def test_parameters_alone_wait_for_their_data(drop, clock):
    (drop / "room.yaml").write_text("fit: {}")
    assert Settling(0, clock).look([drop]) == []
    assert list(lonely(drop)) == [drop / "room.yaml"]


def test_parameters_that_could_be_of_two_are_refused_with_the_way_out(drop, clock):
    settling = Settling(0, clock)
    for name in ("room.mp4", "room.zip", "room.yaml", "empty.mp4"):
        (drop / name).write_bytes(b"1" * (name != "empty.mp4"))
    settling.look([drop])
    bad = {one.path.name: one.bad for one in settling.look([drop])}
    assert bad["room.mp4"] == "found room.yaml beside it and room.zip: call it room.mp4.yaml, so that it belongs to one"
    assert bad["empty.mp4"] == "is empty"


def test_links_outwards_devices_and_what_cannot_be_read_are_named(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"1")
    (folder / "b.jpg").symlink_to("a.jpg")
    assert why_not(folder) == {}
    (folder / "c.jpg").symlink_to("/etc/passwd")
    (folder / "d.jpg").symlink_to("gone")
    os.mkfifo(folder / "e.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "f.jpg"))
    assert set(why_not(folder)) == {"c.jpg", "d.jpg", "e.jpg", "f.jpg"}
    (tmp_path / "link.mp4").symlink_to(folder / "a.jpg")
    assert set(why_not(tmp_path / "link.mp4")) == {"link.mp4"}


def test_a_signature_sees_a_change_that_keeps_the_size_and_the_names(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.utime(path, ns=(0, 0))
    before = signature(tmp_path)
    path.write_bytes(b"2")
    assert signature(tmp_path) != before
