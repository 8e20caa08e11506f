"""The lock files: who may use them, and what becomes of a text that makes no sense."""

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpu_pools.slots import slot_files
from gpu_pools.slots.slot_files import Holder, SlotProgress, is_locked, lock_dir, open_lock, read_holder, shared_dir
from tasks.base.errors import StorageError
from tasks.base.file_locks import lock

ANNA = Holder("r1", "rfuav", "anna@boxa", "cpu", "cpu", "training", 0, 4242, 1700000000.5, None)
UNKNOWN = Holder("?", "?", "?", "cpu", "cpu", "training", 0, 0, 0.0, None)


@pytest.fixture
def slot(tmp_path):
    """Return the path of a slot's record that does not exist yet."""
    return tmp_path / "cpu.training.0.run"


def read(slot):
    return read_holder(slot, "cpu", "training", 0)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_read(slot):
    progress = SlotProgress(3, 30, 1500.5, 1700000100.25)
    slot_files.write_holder(slot, ANNA)
    assert read(slot) == ANNA
    slot_files.write_progress(slot, "r1", progress)
    assert read(slot).progress == progress
    assert slot.stat().st_size == 4096


def test_progress_of_the_run_before_is_not_shown_as_this_one_s(slot):
    slot_files.write_holder(slot, ANNA)
    slot_files.write_progress(slot, "r0", SlotProgress(9, 9, None, 0.0))
    assert read(slot).progress is None


def test_who_writes_the_holder_does_not_undo_the_progress_written_meanwhile(slot):
    slot_files.write_holder(slot, ANNA)
    slot_files.write_progress(slot, "r1", SlotProgress(1, 2, None, 5.0))
    slot_files.write_holder(slot, ANNA)
    assert read(slot).progress == SlotProgress(1, 2, None, 5.0)


def test_a_cleared_record_says_nothing(slot):
    slot_files.write_holder(slot, ANNA)
    slot_files.write_progress(slot, "r1", SlotProgress(1, 2, None, 5.0))
    slot_files.clear(slot)
    assert slot.read_text().strip() == ""
    assert read(slot) == UNKNOWN


@pytest.mark.parametrize(
    "name", ["x" * 10_000, "\N{GRINNING FACE}" * 10_000, '"\\' * 5000, "\x01" * 9000, "\ud800" * 900]
)
def test_a_name_of_any_length_fits(slot, name):
    slot_files.write_holder(slot, Holder("r1", name, name, "cpu", "cpu", "training", 0, 1, 2.0, None))
    found = read(slot)
    assert found.run_id == "r1"
    assert 100 < len(found.run_name) <= 120
    assert slot.stat().st_size <= 4096


def test_a_name_with_line_breaks_becomes_one_line(slot):
    slot_files.write_holder(slot, Holder("r1", "a\n b\tc", "anna", "cpu", "cpu", "training", 0, 1, 2.0, None))
    assert read(slot).run_name == "a b c"


HALF = json.dumps({"run_id": "r", "run_name": "n", "owner": "o", "device": "cpu", "pid": 1, "since": 1})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=5000))
@example(b"")
@example(b"null")
@example(b"[" * 2048)
@example(b"\xff\xfe")
@example(HALF[:40].encode())
@example(HALF.replace("1}", "1e999}").encode())
@example(HALF.replace("1}", "NaN}").encode())
@example(HALF.replace("1}", "1e300}").encode())
@example(HALF.replace('"pid": 1', '"pid": 1e999').encode())
@example((HALF.ljust(2048) + '{"run_id": "r", "epoch": 1, "n_epochs": 2, "remaining_s": 1e999, "updated": 1}').encode())
@example((HALF.ljust(2048) + '{"run_id": "r", "epoch": [], "n_epochs": 2, "remaining_s": 1, "updated": 1}').encode())
@example((HALF.ljust(2048) + "7").encode())
def test_no_record_however_damaged_makes_a_reader_fail(slot, data):
    slot.write_bytes(data)
    found = read(slot)
    time.localtime(found.since)
    assert (found.uuid, found.kind, found.number) == ("cpu", "training", 0)


def test_a_damaged_progress_leaves_the_holder_known(slot):
    slot_files.write_holder(slot, ANNA)
    with slot.open("r+b") as file:
        file.seek(2048)
        file.write(b'{"run_id": "r1", "epo')
    assert read(slot) == ANNA


def test_a_reader_meets_whole_records_only(slot):
    """One process writes records of two lengths as fast as it can; whatever is read is one of the two."""
    code = (
        "import sys; from pathlib import Path\n"
        "from gpu_pools.slots import slot_files; from gpu_pools.slots.slot_files import Holder\n"
        "make = lambda c, n: Holder('r', c * n, c * n, 'cpu', 'cpu', 'training', 0, 1, 2.0, None)\n"
        "print(flush=True)\n"
        "while True:\n"
        "    for holder in (make('a', 9), make('b', 110)): slot_files.write_holder(Path(sys.argv[1]), holder)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, slot], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        while not slot.exists() or slot.stat().st_size == 0:
            time.sleep(0.01)
        seen = {(found.run_name, found.owner) for found in (read(slot) for _ in range(3000))}
        assert seen <= {("a" * 9, "a" * 9), ("b" * 110, "b" * 110)}
        assert len(seen) == 2
    finally:
        writer.kill()
        writer.communicate()


def test_a_lock_file_is_open_to_all_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        os.close(open_lock(tmp_path / "a.guard"))
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.guard") == 0o666
    assert [path.name for path in tmp_path.iterdir()] == ["a.guard"]


def test_an_existing_lock_file_is_opened_without_asking_to_make_it(tmp_path):
    """With fs.protected_regular the kernel refuses O_CREAT on another user's file in a folder like /tmp."""
    path = tmp_path / "a.guard"
    code = (
        "import os, sys; from pathlib import Path; from gpu_pools.slots.slot_files import is_locked, open_lock\n"
        "sys.addaudithook(lambda event, args: event == 'open' and args[0] == sys.argv[1] and print(args[2]))\n"
        "open_lock(Path(sys.argv[1])); open_lock(Path(sys.argv[1])); is_locked(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    flags = [int(line) for line in done.stdout.split()]
    assert len(flags) == 4  # not there, made, there, looked at
    assert not [flag for flag in flags if flag & os.O_CREAT]
    assert all(flag & os.O_NOFOLLOW and flag & os.O_CLOEXEC for flag in flags)


def test_a_link_in_place_of_a_lock_file_is_refused_and_what_it_names_untouched(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.guard").symlink_to(victim)
    for use in (open_lock, is_locked, slot_files.clear):
        with pytest.raises(StorageError, match="cannot use the locks at .*a.guard"):
            use(tmp_path / "a.guard")
    assert victim.read_text() == "mine"


def test_a_pipe_in_place_of_a_lock_file_is_refused_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.guard")
    for use in (open_lock, is_locked):
        with pytest.raises(StorageError, match="need a plain file"):
            use(tmp_path / "a.guard")


def test_who_only_looks_at_a_lock_does_not_make_it_look_taken(tmp_path):
    path = tmp_path / "a.guard"
    looking = open_lock(path)
    assert lock(looking, shared=True)
    assert not is_locked(path)
    holding = open_lock(tmp_path / "b.guard")
    assert lock(holding)
    assert is_locked(tmp_path / "b.guard")
    os.close(looking)
    os.close(holding)


def test_a_lock_that_was_never_there_is_free(tmp_path):
    assert not is_locked(tmp_path / "never")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_made_where_it_is_said_and_open_to_all(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "a" / "locks"))
    before = os.umask(0o077)
    try:
        assert lock_dir() == tmp_path / "a" / "locks"
    finally:
        os.umask(before)
    assert mode(lock_dir()) == 0o1777
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["locks"]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path, monkeypatch):
    tmp_path.chmod(0o750)
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path))
    assert mode(lock_dir()) == 0o750


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(tmp_path / "file" / "locks"))
    with pytest.raises(StorageError, match="cannot use the locks at .*file"):
        lock_dir()


@pytest.mark.parametrize(("parent_mode", "taken"), [(0o1777, "first"), (0o755, "second")])
def test_every_user_comes_to_the_same_folder_whether_or_not_he_could_make_the_other(tmp_path, parent_mode, taken):
    places = tmp_path / "first" / "locks", tmp_path / "second" / "locks"
    for place in places:
        place.parent.mkdir()
    places[0].parent.chmod(parent_mode)  # root, who runs this, could make a folder in either
    assert shared_dir(places) == tmp_path / taken / "locks"


def test_a_folder_that_somebody_made_for_all_is_taken(tmp_path):
    places = tmp_path / "first" / "locks", tmp_path / "second"
    places[0].mkdir(parents=True)
    places[0].chmod(0o1777)
    places[0].parent.chmod(0o755)
    assert shared_dir(places) == places[0]


def refused(monkeypatch, place, fault):
    monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(place))
    for find in (lock_dir, lambda: shared_dir([place])):
        with pytest.raises(StorageError, match=f"found that {place} {fault}, need a folder of root or of this user"):
            find()


def test_a_folder_that_all_may_write_or_that_is_a_link_is_refused(tmp_path, monkeypatch):
    open_folder, link = tmp_path / "open", tmp_path / "link"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    refused(monkeypatch, open_folder, "has mode drwxrwxrwx")
    open_folder.chmod(0o775)  # those of its group may exchange the locks as well
    refused(monkeypatch, open_folder, "has mode drwxrwxr-x")
    open_folder.chmod(0o1777)
    link.symlink_to(open_folder)
    refused(monkeypatch, link, "is no folder")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_folder_of_another_user_is_refused_and_one_of_root_serves_everybody(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o1777)
        monkeypatch.setenv("TRAINYARD_LOCK_DIR", str(folder))
        os.seteuid(4242)
        try:
            assert lock_dir() == shared_dir([folder]) == folder
        finally:
            os.seteuid(0)
        os.chown(folder, 4242, 4242)
        refused(monkeypatch, folder, "belongs to user 4242")


def test_a_shared_folder_that_is_not_open_to_all_is_refused(tmp_path):
    with pytest.raises(StorageError, match="need a folder with mode drwxrwxrwt"):
        shared_dir([tmp_path])
